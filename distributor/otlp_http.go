package distributor

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// otlpPaths are where OTLP goes in Mimir, and in Cortex and Prometheus. An
// exporter is given what is before /v1.
var otlpPaths = []string{"/otlp/v1/metrics", "/api/v1/otlp/v1/metrics"}

// otlpHandler answers an OTLP request: 200 when something of it is stored, and
// with it what was refused.
func (d *Distributor) otlpHandler(w http.ResponseWriter, r *http.Request) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		wire.WriteHTTPError(w, err)
		return
	}
	coding, err := otlpCodingOf(r.Header)
	if err != nil {
		wire.WriteHTTPError(w, err)
		return
	}
	pushed, err := d.pushOTLP(r.Context(), id, coding, r.Body)
	if err == nil && pushed.Refused.First != nil && pushed.Samples+pushed.Histograms+pushed.Exemplars == 0 {
		err = pushed.Refused.First
	}
	if err != nil {
		d.failOTLP(w, id, coding, err)
		return
	}
	res := pmetricotlp.NewExportResponse()
	if report := reportRefusals(&pushed.Pushed); report != "" {
		res.PartialSuccess().SetRejectedDataPoints(int64(pushed.Refused.Total()))
		res.PartialSuccess().SetErrorMessage(report)
	}
	encode := res.MarshalProto
	if coding.json {
		encode = res.MarshalJSON
	}
	body, err := encode()
	if err != nil {
		d.failOTLP(w, id, coding, err)
		return
	}
	coding.answer(w, http.StatusOK, body)
}

// otlpRetryAfter is told with failures of ours, where nothing else is.
const otlpRetryAfter = 5 * time.Second

// failOTLP answers with an error, as OTLP wants it. Exporters give up on 500,
// unlike senders of remote write; so what may pass later is 503.
func (d *Distributor) failOTLP(w http.ResponseWriter, id tenant.ID, c otlpCoding, err error) {
	kind, msg, after := wire.KindOf(err), err.Error(), time.Duration(0)
	var ue *wire.UserError
	if errors.As(err, &ue) {
		msg, after = ue.Error(), ue.RetryAfter
	}
	status := kind.HTTPStatus()
	if kind == wire.Internal {
		d.logger.Error("push failed", "tenant", id, "err", err)
		status, msg, after = http.StatusServiceUnavailable, "internal error, see the server's log", otlpRetryAfter
	}
	if after > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10))
	}
	code := codes.InvalidArgument
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		code = codes.Unavailable
	}
	problem := &rpcstatus.Status{Code: int32(code), Message: msg}
	encode := proto.Marshal
	if c.json {
		encode = protojson.Marshal
	}
	body, _ := encode(problem) // a number and a text
	c.answer(w, status, body)
}

func (c otlpCoding) answer(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	if c.json {
		w.Header().Set("Content-Type", jsonType)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has hung up: nobody to tell
}
