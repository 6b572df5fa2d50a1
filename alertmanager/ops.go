package alertmanager

import (
	"maps"
	"net/http"
	"slices"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// status tells which tenants run here, and where they do besides.
func (a *Alertmanager) status(w http.ResponseWriter, _ *http.Request) {
	type line struct {
		Tenant   tenant.ID `json:"tenant"`
		Position int       `json:"position"`
		Members  []string  `json:"members"`
		Alerts   int64     `json:"alerts"`
	}
	a.mu.RLock()
	open := maps.Clone(a.tenants)
	a.mu.RUnlock()
	lines := []line{}
	for _, id := range slices.Sorted(maps.Keys(open)) {
		l := line{Tenant: id, Alerts: open[id].held.count.Load()}
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
