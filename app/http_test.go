package app

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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

// A client opens a connection, does not need it, and uses it half a minute
// later. In this test a second is 5 ms.
func TestConnectionsWaitForTheirFirstRequest(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	s.Config = build(t, testConfig(t)).newHTTPServer()
	s.Config.ReadHeaderTimeout /= 200
	s.Config.IdleTimeout /= 200
	s.Start()
	t.Cleanup(s.Close)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	time.Sleep(30 * time.Second / 200)
	for range 2 {
		_, err = conn.Write([]byte("GET /-/healthy HTTP/1.1\r\nHost: h\r\n\r\n"))
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	// Without a word it ends some time.
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

// impatient notes until when a body may come.
type impatient struct {
	*httptest.ResponseRecorder
	until time.Time
}

func (w *impatient) SetReadDeadline(at time.Time) error {
	w.until = at
	return nil
}

func TestBodiesComeInTime(t *testing.T) {
	a := build(t, testConfig(t))
	for body, bounded := range map[io.Reader]bool{http.NoBody: false, strings.NewReader("b"): true} {
		w := &impatient{ResponseRecorder: httptest.NewRecorder()}
		a.routes.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/-/healthy", body))
		require.Equal(t, bounded, !w.until.IsZero())
		if bounded {
			require.WithinDuration(t, time.Now().Add(bodyTimeout), w.until, bodyTimeout/2)
		}
	}
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
