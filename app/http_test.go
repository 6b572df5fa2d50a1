package app

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// serve sends one request through the App's router without a network.
func serve(t *testing.T, a *App, method, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(context.Background(), method, path, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	a.routes.ServeHTTP(rec, req)
	return rec
}

func TestPanicIsA500WithItsStackInTheLog(t *testing.T) {
	var log bytes.Buffer
	a, err := New(testConfig(t), slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Stop()) }()
	a.routes.HandleFunc("/panic/{name}", func(http.ResponseWriter, *http.Request) { panic("soup is cold") })
	a.routes.HandleFunc("/half", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, "half")
		panic("no more")
	})

	res := serve(t, a, http.MethodGet, "/panic/x", tenant.Header, "acme")
	require.Equal(t, http.StatusInternalServerError, res.Code)
	require.NotContains(t, res.Body.String(), "soup", "the text of a defect stays inside")
	require.Contains(t, log.String(), "soup is cold")
	require.Contains(t, log.String(), "http_test.go")
	require.Contains(t, log.String(), "route=/panic/{name} status=500 tenant=acme")
	require.InDelta(t, 1, gathered(t, a.reg, "hearth_http_panics_total"), 0)

	require.PanicsWithValue(t, http.ErrAbortHandler, func() { serve(t, a, http.MethodGet, "/half") },
		"half an answer must not look like a whole one")
	require.InDelta(t, 2, gathered(t, a.reg, "hearth_http_panics_total"), 0)
	require.InDelta(t, 0, gathered(t, a.reg, "hearth_http_requests_in_flight"), 0)
}

func TestNotReadyBeforeStart(t *testing.T) {
	a := build(t, testConfig(t))
	res := serve(t, a, http.MethodGet, "/ready")
	require.Equal(t, http.StatusServiceUnavailable, res.Code)
	require.Equal(t, "starting: bucket is New\n", res.Body.String())

	a.doors.of(tenant.MetricsRead).HandleFunc("/of-a-tenant", func(http.ResponseWriter, *http.Request) {})
	res = serve(t, a, http.MethodGet, "/of-a-tenant", tenant.Header, "acme")
	require.Equal(t, http.StatusServiceUnavailable, res.Code)
	require.Equal(t, "5", res.Header().Get("Retry-After"))
	require.Contains(t, res.Body.String(), "err-not-ready")
	require.Equal(t, http.StatusOK, serve(t, a, http.MethodGet, "/-/healthy").Code)
}

func TestNotReadyWhileStopping(t *testing.T) {
	a := build(t, testConfig(t))
	a.phase.Store(stopping)
	res := serve(t, a, http.MethodGet, "/ready")
	require.Equal(t, http.StatusServiceUnavailable, res.Code)
	require.Equal(t, "stopping\n", res.Body.String())
}

func TestWrongMethod(t *testing.T) {
	a := build(t, testConfig(t))
	require.Equal(t, http.StatusMethodNotAllowed, serve(t, a, http.MethodDelete, "/ready").Code)
	require.Equal(t, http.StatusMethodNotAllowed, serve(t, a, "BREW", "/ready").Code)
}

// Handlers that stream find what they ask for behind the observer.
func TestObservedWriterStreams(t *testing.T) {
	a := build(t, testConfig(t))
	a.routes.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, "a")
		w.(http.Flusher).Flush()
		require.NoError(t, http.NewResponseController(w).Flush())
	})
	require.True(t, serve(t, a, http.MethodGet, "/stream").Flushed)
}

func TestFailuresAreLoggedAtABoundedRate(t *testing.T) {
	var log bytes.Buffer
	a, err := New(testConfig(t), slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Stop()) }()
	a.routes.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	for range 1000 {
		serve(t, a, http.MethodGet, "/broken")
	}
	require.Less(t, bytes.Count(log.Bytes(), []byte("request failed")), 200)
}
