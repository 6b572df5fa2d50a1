package distributor

import (
	"cmp"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/tenant"
)

// RegisterOperatorRoutes adds what an operator looks at, in Mimir's spelling
// and that of Cortex' early days.
func (d *Distributor) RegisterOperatorRoutes(r *mux.Router) {
	for _, p := range []string{"/distributor/ha_tracker", "/ha-tracker"} {
		r.Path(p).Methods(http.MethodGet, http.MethodHead).HandlerFunc(d.haHandler)
	}
}

// shownPair is a pair as the page shows it. The times are of this distributor's
// clock, ElectedSince is of the clock of whoever held the election.
type shownPair struct {
	Tenant       tenant.ID  `json:"tenant"`
	Cluster      string     `json:"cluster"`
	Replica      string     `json:"replica"`
	ElectedSince time.Time  `json:"elected_since"`
	LastReceived time.Time  `json:"last_received"`
	Timeout      string     `json:"failover_timeout"`
	Other        string     `json:"other_replica,omitempty"`
	OtherAt      *time.Time `json:"other_last_received,omitempty"`
}

// shown lists the pairs, by tenant and cluster.
func (t *haTracker) shown() []shownPair {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []shownPair{}
	for _, ht := range t.tenants {
		for _, p := range ht.pairs {
			if p.deleted() {
				continue
			}
			s := shownPair{
				Tenant: p.key.tenant, Cluster: p.key.cluster, Replica: p.replica,
				ElectedSince: time.UnixMilli(p.electedAt).UTC(), LastReceived: p.seen.UTC().Round(time.Millisecond),
				Timeout: p.pauses.timeout(t.cfg).Round(time.Second).String(),
			}
			if p.other != "" {
				at := p.otherAt.UTC().Round(time.Millisecond)
				s.Other, s.OtherAt = p.other, &at
			}
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b shownPair) int {
		return cmp.Or(strings.Compare(string(a.Tenant), string(b.Tenant)), strings.Compare(a.Cluster, b.Cluster))
	})
	return list
}

// haHandler shows the pairs as a page, or as JSON to whoever asks for that.
func (d *Distributor) haHandler(w http.ResponseWriter, r *http.Request) {
	pairs := d.ha.shown()
	var err error
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		err = json.NewEncoder(w).Encode(map[string]any{"pairs": pairs})
	} else {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		err = haPage.Execute(w, struct {
			Now   time.Time
			Pairs []shownPair
		}{d.now().UTC(), pairs})
	}
	if err != nil {
		d.logger.Debug("page of Prometheus pairs not written", "err", err)
	}
}

var haPage = template.Must(template.New("ha").Funcs(template.FuncMap{
	"stamp": func(t time.Time) string { return t.Format("2006-01-02 15:04:05") },
	"ago":   func(now, t time.Time) string { return now.Sub(t).Round(100 * time.Millisecond).String() },
}).Parse(`<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Hearth: pairs of Prometheus</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem}th,td{padding:0 1.5rem 0 0;text-align:left;white-space:nowrap}</style>
<h1>Pairs of Prometheus</h1>
<p>At {{stamp .Now}} UTC this distributor knows of {{len .Pairs}}. What the elected replica sends is stored; another takes over when that one has been silent for the timeout.</p>
<table><tr><th>Tenant<th>Cluster<th>Elected<th>since<th>last received<th>Timeout<th>Other<th>last received</tr>
{{$now := .Now}}{{range .Pairs}}<tr><td>{{.Tenant}}<td>{{.Cluster}}<td>{{.Replica}}<td>{{stamp .ElectedSince}}<td>{{ago $now .LastReceived}} ago<td>{{.Timeout}}<td>{{with .Other}}{{.}}{{else}}none{{end}}<td>{{with .OtherAt}}{{ago $now .}} ago{{end}}</tr>
{{end}}</table>
</html>
`))
