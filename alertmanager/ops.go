package alertmanager

import (
	"iter"
	"maps"
	"net/http"
	"slices"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// status tells which tenants are here, and where they are besides.
func (a *Alertmanager) status(w http.ResponseWriter, _ *http.Request) {
	type line struct {
		Tenant   tenant.ID `json:"tenant"`
		Position int       `json:"position"`
		Members  []string  `json:"members"`
		Awake    bool      `json:"awake"`
		Alerts   int64     `json:"alerts"`
	}
	a.mu.RLock()
	open, asleep := maps.Clone(a.tenants), maps.Clone(a.asleep)
	a.mu.RUnlock()
	lines := []line{}
	for _, id := range slices.Sorted(joined(maps.Keys(open), maps.Keys(asleep))) {
		l := line{Tenant: id}
		if in := open[id]; in != nil {
			l.Awake, l.Alerts = true, in.held.count.Load()
		}
		l.Position, _ = a.place.position(id)
		for _, m := range a.place.owners(id) {
			l.Members = append(l.Members, m.ID)
		}
		lines = append(lines, l)
	}
	if err := writeJSON(w, lines); err != nil {
		wire.WriteHTTPError(w, err)
	}
}

// joined is one sequence after the other.
func joined(seqs ...iter.Seq[tenant.ID]) iter.Seq[tenant.ID] {
	return func(yield func(tenant.ID) bool) {
		for _, seq := range seqs {
			for id := range seq {
				if !yield(id) {
					return
				}
			}
		}
	}
}

// configs lists the tenants that have a configuration.
func (a *Alertmanager) configs(w http.ResponseWriter, r *http.Request) {
	known, err := a.store.list(r.Context())
	if err != nil {
		a.logger.Error("alertmanager configurations not listed", "err", err)
		wire.WriteHTTPError(w, err)
		return
	}
	if err := writeJSON(w, slices.Sorted(maps.Keys(known))); err != nil {
		wire.WriteHTTPError(w, err)
	}
}

// forget deletes everything that is kept of a tenant, its history and state too.
func (a *Alertmanager) forget(w http.ResponseWriter, r *http.Request, id tenant.ID) error {
	if err := a.store.remove(r.Context(), id); err != nil {
		return err
	}
	a.tell(r.Context(), id) // members save what they have when they close
	if err := a.store.forget(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
