package ingester

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// RegisterRoutes adds the operator's routes.
func (i *Ingester) RegisterRoutes(r *mux.Router) {
	r.Path("/ingester/flush").Methods(http.MethodGet, http.MethodPost).HandlerFunc(i.flushHandler)
}

// flushHandler cuts and ships at once: all tenants, or those named by
// tenant=. With wait=true it answers when done, 200 with the shipped blocks or
// 500 with what went wrong; without, 202 at once.
func (i *Ingester) flushHandler(w http.ResponseWriter, r *http.Request) {
	heads := i.heads()
	if names := r.URL.Query()["tenant"]; len(names) > 0 {
		heads = nil
		for _, name := range names {
			id, err := tenant.ParseID(name)
			if err != nil {
				wire.WriteHTTPError(w, err)
				return
			}
			heads = append(heads, i.headsOf(id)...)
		}
	}
	if r.URL.Query().Get("wait") != "true" {
		select {
		case i.flushNow <- heads:
			w.WriteHeader(http.StatusAccepted)
		default:
			wire.WriteHTTPError(w, &wire.UserError{Kind: wire.Unavailable, ID: "err-flush-busy", Msg: "earlier flushes are still running, try again later", RetryAfter: time.Minute})
		}
		return
	}
	blocks, err := i.flush(r.Context(), heads)
	answer := struct {
		Status string   `json:"status"`
		Blocks []string `json:"blocks"`
		Error  string   `json:"error,omitempty"`
	}{"success", append([]string{}, blocks...), ""} // a list also where it is empty
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		answer.Status, answer.Error = "error", err.Error()
		w.WriteHeader(http.StatusInternalServerError)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// Flush cuts and ships everything, and returns the blocks that went to the
// bucket.
func (i *Ingester) Flush(ctx context.Context) ([]string, error) { return i.flush(ctx, i.heads()) }

// headsOf lists the heads that may hold data of a tenant.
func (i *Ingester) headsOf(id tenant.ID) []*head {
	heads := []*head{i.poolOf(id)}
	if m := i.knownMember(id); m != nil {
		if own := m.own.Load(); own != nil {
			heads = append(heads, own)
		}
	}
	return heads
}
