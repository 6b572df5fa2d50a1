package querier

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// maxBody is the largest form, or compressed remote read, that is read: far
// more than max_query_expression_size allows, far less than hurts.
const maxBody = 4 << 20

// endpoint is one path of the API below its prefix.
type endpoint struct {
	path    string
	name    string // for metrics
	methods []string
	handler http.Handler // sees the path as written here

	queued bool // waits for its turn: it reads series
	stream bool // holds its turn until the whole answer is written
	fail   func(http.ResponseWriter, error)
}

var (
	get       = []string{http.MethodGet}
	getOrPost = []string{http.MethodGet, http.MethodPost}
)

// endpoints lists all that is served; of Prometheus' API nothing else can be
// reached.
func (q *Querier) endpoints() []endpoint {
	api := q.newAPI()
	withRules := compressed(q.serveBuildInfo)
	buildInfo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q.beside().Rules {
			withRules.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
	return []endpoint{
		{path: "/query", name: "query", methods: getOrPost, handler: api, queued: true, fail: writeError},
		{path: "/query_range", name: "query_range", methods: getOrPost, handler: api, queued: true, fail: writeError},
		{path: "/query_exemplars", name: "query_exemplars", methods: getOrPost, handler: api, queued: true, fail: writeError},
		{path: "/series", name: "series", methods: getOrPost, handler: api, queued: true, fail: writeError},
		{path: "/labels", name: "labels", methods: getOrPost, handler: api, queued: true, fail: writeError},
		{path: "/label/{name}/values", name: "label_values", methods: get, handler: api, queued: true, fail: writeError},
		{path: "/format_query", name: "format_query", methods: getOrPost, handler: api, fail: writeError},
		{path: "/parse_query", name: "parse_query", methods: getOrPost, handler: api, fail: writeError},
		{path: "/status/buildinfo", name: "buildinfo", methods: get, handler: buildInfo, fail: writeError},
		{path: "/metadata", name: "metadata", methods: get, handler: compressed(q.serveMetadata), fail: writeError},
		{path: "/read", name: "read", methods: []string{http.MethodPost}, handler: http.HandlerFunc(q.serveRead), queued: true, stream: true, fail: writePlainError},
	}
}

// RegisterRoutes adds the API under /prometheus and, as older Cortex has it,
// /api/prom. The router puts the tenant into each request's context.
func (q *Querier) RegisterRoutes(r *mux.Router) {
	for _, e := range q.endpoints() {
		for _, prefix := range []string{"/prometheus/api/v1", "/api/prom/api/v1"} {
			h := q.door(e)
			methods := append([]string{http.MethodOptions}, e.methods...)
			r.Handle(prefix+e.path, http.StripPrefix(prefix, h)).Methods(methods...)
		}
		if e.name == "buildinfo" { // where Mimir has it as well
			r.Handle("/api/v1"+e.path, http.StripPrefix("/api/v1", q.door(e))).Methods(slices.Clone(e.methods)...)
		}
	}
}

// door lets a request in: it bounds the body, the expression and the time,
// waits for the tenant's turn, and notes how it went.
func (q *Querier) door(e endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		out := &answer{ResponseWriter: w, status: http.StatusOK}
		outcome := outcomeFailed // where a panic ends it, as when a stream breaks
		defer func() {
			q.metrics.queries.WithLabelValues(e.name, outcome).Inc()
			q.metrics.duration.WithLabelValues(e.name).Observe(time.Since(start).Seconds())
		}()
		if err := q.pass(e, out, r); err != nil {
			e.fail(out, err)
		}
		outcome = out.outcome()
		if ids, _, err := tenant.AllFromContext(r.Context()); err == nil {
			divided(ids, out.bytes, q.meter.Answered)
		}
	})
}

// pass serves a request, or returns why it may not in.
func (q *Querier) pass(e endpoint, out *answer, r *http.Request) error {
	who, err := q.whose(r.Context())
	if err != nil {
		return err
	}
	body, err := readBody(out, r)
	if err != nil {
		return err
	}
	form := peekForm(r, body)
	if err := q.checkExpression(who.limits, form); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), q.timeout(who.limits, form))
	defer cancel()
	if e.queued && r.Method != http.MethodOptions {
		waited := time.Now()
		turn, release, err := q.queue.acquire(ctx, who.line(), who.limits.MaxQueries)
		q.metrics.queueWait.Observe(time.Since(waited).Seconds())
		if err != nil {
			return q.turnedAway(err)
		}
		defer release()
		for _, id := range who.ids {
			q.meter.Queried(id)
		}
		if !e.stream {
			out.atHeader = release // a slow reader does not hold its turn
		}
		ctx = turn
	}
	e.handler.ServeHTTP(out, r.WithContext(ctx))
	return nil
}

// turnedAway is the error of a query whose turn did not come.
func (q *Querier) turnedAway(err error) error {
	var ue *wire.UserError
	switch {
	case errors.As(err, &ue):
		return q.refuse(ue)
	case errors.Is(err, context.DeadlineExceeded):
		return promql.ErrQueryTimeout("query queue")
	default:
		return promql.ErrQueryCanceled("query queue")
	}
}

// readBody reads a bounded body into memory and leaves it readable.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, wire.Errorf(wire.TooLarge, "err-query-body-too-large",
				"the body of the request is over %d bytes", tooLarge.Limit)
		}
		return nil, promql.ErrQueryCanceled("reading the request")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}

// peekForm reads the parameters as the handler will, which for itself parses
// the request again: how it reports a form that cannot be parsed is its own.
func peekForm(r *http.Request, body []byte) url.Values {
	peek := &http.Request{Method: r.Method, URL: r.URL, Header: r.Header, Body: io.NopCloser(bytes.NewReader(body))}
	_ = peek.FormValue("query")
	return peek.Form
}

// timeout is how long a request may take: what the client asks for, but not
// more than the configuration and the tenant's limit say. A parameter that
// cannot be read is left to the handler to refuse.
func (q *Querier) timeout(l *tenant.Limits, form url.Values) time.Duration {
	most := time.Duration(q.cfg.Timeout)
	if l.QueryTimeout > 0 {
		most = min(most, time.Duration(l.QueryTimeout))
	}
	asked := form.Get("timeout")
	if secs, err := strconv.ParseFloat(asked, 64); err == nil {
		if secs > 0 && secs < most.Seconds() && !math.IsNaN(secs) {
			return time.Duration(secs * float64(time.Second))
		}
		return most
	}
	if d, err := model.ParseDuration(asked); err == nil && d > 0 {
		return min(most, time.Duration(d))
	}
	return most
}

// answer is a ResponseWriter that knows what was answered.
type answer struct {
	http.ResponseWriter
	status   int
	started  bool
	bytes    int    // of the body
	atHeader func() // called when the answer begins, may be nil
}

func (a *answer) WriteHeader(status int) {
	if a.started {
		return
	}
	a.started, a.status = true, status
	overloaded := status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests
	if overloaded && a.Header().Get("Retry-After") == "" {
		a.Header().Set("Retry-After", "1")
	}
	if a.atHeader != nil {
		a.atHeader()
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if !a.started {
		a.WriteHeader(http.StatusOK)
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController find what the server can do.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Flush implements http.Flusher, which remote read asks for.
func (a *answer) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

func (a *answer) outcome() string {
	switch {
	case a.status < http.StatusBadRequest:
		return outcomeSuccess
	case a.status == http.StatusTooManyRequests:
		return outcomeQueued
	case a.status == statusClientClosed:
		return outcomeCanceled
	case a.status < http.StatusInternalServerError:
		return outcomeRejected
	default:
		return outcomeFailed
	}
}
