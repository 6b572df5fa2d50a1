package app

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"golang.org/x/time/rate"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Bounds on every connection. The parts bound bodies and answers themselves.
const (
	// idleTimeout is longer than clients keep a connection they do not use
	// (Prometheus 5 minutes, most others 90 s): who closes first must be the
	// client, or a request that is just being sent gets no answer. That holds
	// before the first request too, as clients open connections that they then
	// do not need.
	idleTimeout    = 6 * time.Minute
	bodyTimeout    = 2 * time.Minute  // once the header is there
	writeTimeout   = 10 * time.Minute // the longest answer: a flush that is waited for, a profile
	maxHeaderBytes = 64 << 10
	retryAfter     = 5 * time.Second // told to clients while starting and stopping
)

// unknownRoute is the route label of requests that match none, so that a
// scanner cannot make series.
const unknownRoute = "unknown"

func (a *App) newHTTPServer() *http.Server {
	return &http.Server{
		Handler:           a.routes,
		TLSConfig:         a.transport.HTTP(),
		ReadHeaderTimeout: idleTimeout,
		IdleTimeout:       idleTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         (&conns{max: maxConns}).follow,
		ErrorLog:          slog.NewLogLogger(a.logger.Handler(), slog.LevelDebug), // clients that hang up and the like
	}
}

// scheme is what URLs of this process begin with.
func (a *App) scheme() string {
	if a.cfg.Server.HTTPTLS.CertFile != "" {
		return "https"
	}
	return "http"
}

func (a *App) serveHTTP() error {
	if a.scheme() == "https" {
		return a.http.ServeTLS(a.httpLis, "", "") // the files are in TLSConfig
	}
	return a.http.Serve(a.httpLis)
}

// newRouter has the operator's routes and observes every request.
func (a *App) newRouter() *mux.Router {
	r := mux.NewRouter()
	watch := a.observe()
	r.Use(watch)
	// mux runs no middleware for these two.
	r.NotFoundHandler = watch(plain(http.StatusNotFound, "404 page not found\n"))
	r.MethodNotAllowedHandler = watch(plain(http.StatusMethodNotAllowed, "405 method not allowed\n"))
	a.doors = a.newDoors(r)
	a.operators = a.doors.of(tenant.Operator)
	a.registerOps(a.doors.open(), a.operators)
	return r
}

// gate refuses requests while a part behind them may not run.
func (a *App) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Requests that came in before the doors closed are still answered
		// while stopping: the parts run until the last of them is done.
		if a.phase.Load() == starting {
			err := wire.Errorf(wire.Unavailable, "err-not-ready", "not ready yet, retry in a moment")
			err.RetryAfter = retryAfter
			wire.WriteHTTPError(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// observe counts and times requests, turns a panic into a 500, and logs what
// failed on our side.
func (a *App) observe() mux.MiddlewareFunc {
	failures := &failureLog{logger: a.logger, limit: rate.NewLimiter(5, 50)}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			a.metrics.inFlight.Inc()
			out := &answer{ResponseWriter: w}
			if r.Body != http.NoBody {
				_ = http.NewResponseController(w).SetReadDeadline(began.Add(bodyTimeout)) // a connection knows deadlines, what else there may be does not
			}
			defer func() {
				a.metrics.inFlight.Dec()
				dur := time.Since(began)
				route := routeOf(r)
				a.metrics.duration.WithLabelValues(methodOf(r), route, strconv.Itoa(out.code())).Observe(dur.Seconds())
				if out.code() >= http.StatusInternalServerError {
					failures.add("method", r.Method, "route", route, "status", out.code(), "tenant", r.Header.Get(tenant.Header), "dur", dur)
				}
			}()
			defer a.recoverPanic(out, r)
			next.ServeHTTP(out, r)
		})
	}
}

func (a *App) recoverPanic(w *answer, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // panics carry it unwrapped, as net/http compares it
		panic(p) // a handler's way to cut the connection, not a defect
	}
	a.metrics.panics.Inc()
	a.logger.Error("request panicked", "method", r.Method, "route", routeOf(r), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
	if w.status == 0 {
		wire.WriteHTTPError(w, fmt.Errorf("panic: %v", p))
		return
	}
	// Half an answer is out: cutting the connection is the only way to tell.
	panic(http.ErrAbortHandler)
}

// routeOf is the template of the route that answers, not the path, so that
// paths with names in them share their series.
func routeOf(r *http.Request) string {
	if route := mux.CurrentRoute(r); route != nil {
		if t, err := route.GetPathTemplate(); err == nil {
			return t
		}
	}
	return unknownRoute
}

// methodOf is the method, or "other" for one that is made up.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	default:
		return "other"
	}
}

func plain(status int, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text)) // the client has hung up: nobody to tell
	})
}

// answer remembers the status that was sent.
type answer struct {
	http.ResponseWriter
	status int
}

func (w *answer) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

func (w *answer) WriteHeader(status int) {
	if w.status == 0 && status >= 200 { // 1xx come before the answer
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Flush serves handlers that stream and ask for http.Flusher.
func (w *answer) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// failureLog drops warnings above a rate and tells with the next one how many.
type failureLog struct {
	logger  *slog.Logger
	limit   *rate.Limiter
	dropped atomic.Int64
}

func (l *failureLog) add(args ...any) {
	if !l.limit.Allow() {
		l.dropped.Add(1)
		return
	}
	l.logger.Warn("request failed", append(args, "dropped_before", l.dropped.Swap(0))...)
}
