package distributor

import (
	"net/http"
	"strconv"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Paths are where senders push, in the spellings of Mimir and Cortex, of
// Prometheus, and of Cortex' early days.
var paths = []string{"/api/v1/push", "/api/v1/write", "/api/prom/push"}

// RegisterRoutes adds the routes for writes. Requests come with their tenant
// in the context.
func (d *Distributor) RegisterRoutes(r *mux.Router) {
	for _, p := range paths {
		r.Path(p).Methods(http.MethodPost).HandlerFunc(d.pushHandler)
	}
	for _, p := range otlpPaths {
		r.Path(p).Methods(http.MethodPost).HandlerFunc(d.otlpHandler)
	}
}

// Headers that say how much of a remote-write 2.0 request is stored.
const (
	samplesWritten    = "X-Prometheus-Remote-Write-Samples-Written"
	histogramsWritten = "X-Prometheus-Remote-Write-Histograms-Written"
	exemplarsWritten  = "X-Prometheus-Remote-Write-Exemplars-Written"
)

// pushHandler answers a remote-write request: 200 (1.0) or 204 (2.0) when all
// is stored, 202 when nothing is because another replica is elected, 400 when
// part of it was refused and the rest is stored.
func (d *Distributor) pushHandler(w http.ResponseWriter, r *http.Request) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		wire.WriteHTTPError(w, err)
		return
	}
	version, err := negotiate(r.Header)
	if err != nil {
		wire.WriteHTTPError(w, err)
		return
	}
	pushed, err := d.push(r.Context(), id, version, r.Body, r.ContentLength)
	if version == wire.V2 {
		w.Header().Set(samplesWritten, strconv.Itoa(pushed.Samples))
		w.Header().Set(histogramsWritten, strconv.Itoa(pushed.Histograms))
		w.Header().Set(exemplarsWritten, strconv.Itoa(pushed.Exemplars))
	}
	if err != nil {
		if wire.KindOf(err) == wire.Internal {
			d.logger.Error("push failed", "tenant", id, "err", err)
		}
		wire.WriteHTTPError(w, err)
		return
	}
	switch report := reportRefusals(&pushed.Pushed); {
	case report != "":
		http.Error(w, report, pushed.Refused.First.Kind.HTTPStatus())
	case pushed.deduplicated > 0 && pushed.Samples+pushed.Histograms+pushed.Exemplars == 0:
		w.WriteHeader(http.StatusAccepted)
	case version == wire.V2:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusOK)
	}
}
