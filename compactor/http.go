package compactor

import (
	"encoding/json"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// RegisterRoutes adds the doors for a tenant's deletion, under Mimir's and
// Cortex's names. Requests carry the tenant in their context.
func (c *Compactor) RegisterRoutes(r *mux.Router) {
	for _, base := range []string{"/compactor", "/purger"} {
		r.HandleFunc(base+"/delete_tenant", c.serveDelete).Methods(http.MethodPost)
		r.HandleFunc(base+"/delete_tenant_status", c.serveStatus).Methods(http.MethodGet)
	}
}

func (c *Compactor) serveDelete(w http.ResponseWriter, r *http.Request) {
	id, err := tenant.FromContext(r.Context())
	if err == nil {
		err = RequestDeletion(r.Context(), c.bucket, id)
	}
	if err != nil {
		wire.WriteHTTPError(w, err)
		return
	}
	c.logger.Info("deletion of a tenant was asked for", "tenant", id)
}

func (c *Compactor) serveStatus(w http.ResponseWriter, r *http.Request) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		wire.WriteHTTPError(w, err)
		return
	}
	d, err := DeletionOf(r.Context(), c.bucket, id)
	if err != nil {
		wire.WriteHTTPError(w, err)
		return
	}
	answer := struct {
		Tenant  tenant.ID `json:"tenant_id"`
		Deleted bool      `json:"blocks_deleted"`
		*Deletion
	}{id, d != nil && d.Gone(), d}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client has hung up: nobody to tell
}
