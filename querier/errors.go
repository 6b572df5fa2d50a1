package querier

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// statusClientClosed is what nginx, and Prometheus after it, answer to a
// client that has gone.
const statusClientClosed = 499

// unavailable carries an error of kind Unavailable through Prometheus' API,
// which calls an answer "unavailable" by this sentinel alone.
type unavailable struct{ error }

func (u unavailable) Is(target error) bool { return target == tsdb.ErrNotReady }
func (u unavailable) Unwrap() error        { return u.error }

// refine gives an error from below the type by which Prometheus' API and
// statusOf know it. UserErrors keep their text. The text of anything else may
// name files, objects or other tenants, so it goes to the log and the client
// gets an id to look for there. Refining twice changes nothing.
func (q *Querier) refine(id tenant.ID, err error) error {
	var (
		ue       *wire.UserError
		canceled promql.ErrQueryCanceled
		timeout  promql.ErrQueryTimeout
		storage  promql.ErrStorage
	)
	switch {
	case err == nil, errors.As(err, &canceled), errors.As(err, &timeout), errors.As(err, &storage):
		return err
	case errors.As(err, &ue):
		switch ue.Kind {
		case wire.Unavailable:
			return unavailable{ue}
		case wire.Internal:
			return promql.ErrStorage{Err: ue}
		default:
			return ue
		}
	case errors.Is(err, context.Canceled):
		return promql.ErrQueryCanceled("reading series")
	case errors.Is(err, context.DeadlineExceeded):
		return promql.ErrQueryTimeout("reading series")
	default:
		q.logger.Error("query could not read its data", "tenant", id, "err", err)
		return promql.ErrStorage{Err: wire.Errorf(wire.Internal, "err-query-storage",
			"data that the query needs could not be read, see the server's log")}
	}
}

// refineIn is refine for an error that may only be the end of the context: then
// what ended it is the error, if that is for the client to know.
func (q *Querier) refineIn(ctx context.Context, id tenant.ID, err error) error {
	var ue *wire.UserError
	if err != nil && errors.As(context.Cause(ctx), &ue) {
		err = ue
	}
	return q.refine(id, err)
}

// statusOf is the HTTP status of an error where it is not the one that
// Prometheus' API would give it. Limited means 422 here, as for all limits
// that a query runs into, unless the error says that the same query may pass
// later. N is a type of the API's that has no name outside of it.
func statusOf[N any](_ N, err error) (code int, override bool) {
	var (
		ue       *wire.UserError
		canceled promql.ErrQueryCanceled
		timeout  promql.ErrQueryTimeout
		storage  promql.ErrStorage
	)
	switch {
	case errors.As(err, &canceled), errors.Is(err, context.Canceled):
		return statusClientClosed, true
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, true
	case errors.As(err, &ue) && ue.Kind == wire.Limited && ue.RetryAfter == 0:
		return http.StatusUnprocessableEntity, true
	case errors.As(err, &ue) && ue.Kind != wire.Invalid && ue.Kind != wire.NotFound:
		return ue.Kind.HTTPStatus(), true
	case errors.As(err, &storage):
		return http.StatusInternalServerError, true
	default:
		return 0, false
	}
}

// errorTypes are the words of the envelope for what our own doors answer.
var errorTypes = map[int]string{
	http.StatusRequestEntityTooLarge: "too_large_entry",
	http.StatusUnprocessableEntity:   "execution",
	http.StatusTooManyRequests:       "too_many_requests",
	statusClientClosed:               "canceled",
	http.StatusInternalServerError:   "internal",
	http.StatusServiceUnavailable:    "unavailable",
}

// writeError answers with Prometheus' envelope.
func writeError(w http.ResponseWriter, err error) {
	status, typ := http.StatusBadRequest, "bad_data"
	if code, ok := statusOf(v1.ErrorNone, err); ok {
		status = code
		if t, ok := errorTypes[code]; ok {
			typ = t
		}
	}
	var timeout promql.ErrQueryTimeout
	if errors.As(err, &timeout) {
		typ = "timeout"
	}
	body, jsonErr := json.Marshal(v1.Response{Status: "error", ErrorType: typ, Error: err.Error()})
	if jsonErr != nil {
		http.Error(w, err.Error(), status)
		return
	}
	retryAfter(w, err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// writePlainError answers as Prometheus' remote read does: with the text alone.
func writePlainError(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if code, ok := statusOf(v1.ErrorNone, err); ok {
		status = code
	}
	retryAfter(w, err)
	http.Error(w, err.Error(), status)
}

func retryAfter(w http.ResponseWriter, err error) {
	var ue *wire.UserError
	if errors.As(err, &ue) && ue.RetryAfter > 0 {
		secs := int64((ue.RetryAfter + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(secs, 10))
	}
}
