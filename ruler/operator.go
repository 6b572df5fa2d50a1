package ruler

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/gorilla/mux"
	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// RegisterOperatorRoutes adds what an operator looks at. It is from memory: what
// this ruler has last read of all tenants.
func (r *Ruler) RegisterOperatorRoutes(router *mux.Router) {
	router.HandleFunc("/ruler/rule_groups", r.showAll).Methods(http.MethodGet)
	router.HandleFunc("/ruler/tenants", r.showTenants).Methods(http.MethodGet)
	router.HandleFunc("/ruler/tenant/{tenant}/rule_groups", r.showTenant).Methods(http.MethodGet)
}

// known are the tenants that have rules, and how many of their groups are
// evaluated here.
func (r *Ruler) known() (docs map[tenant.ID]Document, ours map[tenant.ID]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	docs, ours = map[tenant.ID]Document{}, map[tenant.ID]int{}
	for id, t := range r.tenants {
		docs[id], ours[id] = t.doc, len(t.ours)
	}
	return docs, ours
}

// showAll writes the rules of all tenants, one after the other, as Cortex does.
func (r *Ruler) showAll(w http.ResponseWriter, _ *http.Request) {
	docs, _ := r.known()
	w.Header().Set("Content-Type", "application/yaml")
	for _, id := range slices.Sorted(maps.Keys(docs)) {
		text, err := yaml.Marshal(map[tenant.ID]map[string][]Group{id: docs[id].Namespaces})
		if err != nil {
			r.logger.Error("rules not shown", "tenant", id, "err", err)
			continue
		}
		if _, err := w.Write(text); err != nil {
			return // the client has hung up
		}
	}
}

func (r *Ruler) showTenants(w http.ResponseWriter, _ *http.Request) {
	docs, ours := r.known()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "%-40s %10s %10s\n", "tenant", "groups", "here")
	for _, id := range slices.Sorted(maps.Keys(docs)) {
		d := docs[id]
		fmt.Fprintf(w, "%-40s %10d %10d\n", id, d.groups(), ours[id])
	}
}

func (r *Ruler) showTenant(w http.ResponseWriter, req *http.Request) {
	docs, _ := r.known()
	d, ok := docs[tenant.ID(mux.Vars(req)["tenant"])]
	err := error(errNoRules)
	if ok {
		err = writeYAML(w, d.Namespaces)
	}
	if err != nil {
		wire.WriteHTTPError(w, err)
	}
}
