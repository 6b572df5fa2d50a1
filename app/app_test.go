package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// dskit's gossip does not wait for connections that others still hold open.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/grafana/dskit/kv/memberlist.(*TCPTransport).handleConnection"))
}

// testConfig listens on free ports and keeps its data in a folder of the test.
func testConfig(t *testing.T) Config {
	t.Helper()
	cfg := DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.Server.HTTPListenAddress = "127.0.0.1:0"
	cfg.Server.GRPCListenAddress = "127.0.0.1:0"
	return cfg
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// build makes an App that is stopped with the test but not started.
func build(t *testing.T, cfg Config) *App {
	t.Helper()
	a, err := New(cfg, discard())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Stop()) })
	return a
}

func start(t *testing.T, cfg Config) *App {
	t.Helper()
	a := build(t, cfg)
	require.NoError(t, a.Start(t.Context()))
	return a
}

// get asks over a connection of its own and returns status and body.
func get(t *testing.T, a *App, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.Addr()+path, http.NoBody)
	require.NoError(t, err)
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}

func TestOperatorRoutes(t *testing.T) {
	a := start(t, testConfig(t))
	for path, want := range map[string]string{
		"/":                      "<h1>Hearth</h1>",
		"/ready":                 "ready",
		"/-/ready":               "ready",
		"/-/healthy":             "healthy",
		"/services":              "ingester       Running",
		"/config":                "http_listen_address: 127.0.0.1:0",
		"/config?mode=diff":      "data_dir: /",
		"/config?mode=defaults":  "http_listen_address: 127.0.0.1:9009",
		"/metrics":               "hearth_http_requests_in_flight 1",
		"/debug/pprof/":          "goroutine",
		"/debug/pprof/goroutine": "",
	} {
		status, body := get(t, a, path)
		require.Equal(t, http.StatusOK, status, path)
		require.Contains(t, body, want, path)
	}

	status, body := get(t, a, "/nothing/here")
	require.Equal(t, http.StatusNotFound, status)
	require.Equal(t, "404 page not found\n", body)
	status, _ = get(t, a, "/config?mode=wrong")
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = get(t, a, "/debug/pprof/cmdline")
	require.Equal(t, http.StatusNotFound, status, "the command line may hold secrets")

	_, body = get(t, a, "/metrics")
	require.Contains(t, body, `hearth_http_request_duration_seconds_count{method="GET",route="unknown",status_code="404"} 1`)
	require.NotContains(t, body, "nothing")
}

func TestIndexLinksWork(t *testing.T) {
	a := start(t, testConfig(t))
	links := 0
	for _, r := range a.Routes() {
		if !r.Link() || strings.HasSuffix(r.Path, "/profile") || strings.HasSuffix(r.Path, "/trace") { // these take their time
			continue
		}
		links++
		status, _ := get(t, a, r.Path)
		require.Equal(t, http.StatusOK, status, r.Path)
	}
	require.Greater(t, links, 5)
}

func TestTenantRoutesWantATenant(t *testing.T) {
	a := start(t, testConfig(t))
	for _, r := range a.Routes() {
		if !r.Tenant() || strings.Contains(r.Path, "{") || len(r.Methods) == 0 || r.Methods[0] != http.MethodGet {
			continue
		}
		status, body := get(t, a, r.Path)
		require.Equal(t, http.StatusUnauthorized, status, r.Path)
		require.Contains(t, body, "err-tenant-missing", r.Path)
	}
}

func TestGRPCHealth(t *testing.T) {
	a := start(t, testConfig(t))
	conn, err := grpc.NewClient(a.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	res, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, res.Status)
}

func TestDataDirIsForOneProcess(t *testing.T) {
	cfg := testConfig(t)
	build(t, cfg)
	_, err := New(cfg, discard())
	require.ErrorContains(t, err, "data_dir: "+cfg.DataDir+" is in use by another process")
}

func TestStartFailsOnATakenAddress(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	for _, key := range []string{"server.http_listen_address", "server.grpc_listen_address"} {
		cfg := testConfig(t)
		if strings.Contains(key, "http") {
			cfg.Server.HTTPListenAddress = lis.Addr().String()
		} else {
			cfg.Server.GRPCListenAddress = lis.Addr().String()
		}
		a, err := New(cfg, discard())
		require.NoError(t, err)
		require.ErrorContains(t, a.Start(t.Context()), key)

		again, err := New(cfg, discard()) // the folder is free again
		require.NoError(t, err)
		require.NoError(t, again.Stop())
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	a, err := New(testConfig(t), discard())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan error)
	go func() { done <- a.Run(ctx, in) }()

	welcome := make([]byte, 1024)
	n, err := out.Read(welcome) // written when requests are answered
	require.NoError(t, err)
	require.Contains(t, string(welcome[:n]), "http://"+a.Addr()+"/api/v1/push")
	status, _ := get(t, a, "/ready")
	require.Equal(t, http.StatusOK, status)

	cancel()
	require.NoError(t, <-done)
}

func TestRunStoppedWhileStartingIsClean(t *testing.T) {
	a, err := New(testConfig(t), discard())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, a.Run(ctx, io.Discard))
}

// A request that runs when the stop begins is answered; the parts stop after it.
func TestStopWaitsForRequests(t *testing.T) {
	a, err := New(testConfig(t), discard())
	require.NoError(t, err)
	inside, finish := make(chan struct{}), make(chan struct{})
	a.routes.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		close(inside)
		<-finish
		writeText(w, a.parts[0].State().String())
	})
	require.NoError(t, a.Start(t.Context()))
	addr := a.Addr()

	body := make(chan string)
	go func() {
		res, err := http.Get("http://" + addr + "/slow")
		if err != nil {
			body <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		body <- string(b)
	}()
	<-inside
	stopped := make(chan error)
	go func() { stopped <- a.Stop() }()
	require.Eventually(t, func() bool { // the door is closed, the room is not
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, 10*time.Second, time.Millisecond)
	close(finish)
	require.Equal(t, "Running", <-body)
	require.NoError(t, <-stopped)
	http.DefaultClient.CloseIdleConnections()
}

func TestStopCutsRequestsAfterItsTimeout(t *testing.T) {
	cfg := testConfig(t)
	cfg.Server.ShutdownTimeout = model.Duration(time.Millisecond)
	a, err := New(cfg, discard())
	require.NoError(t, err)
	inside := make(chan struct{})
	a.routes.HandleFunc("/hangs", func(_ http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
	})
	require.NoError(t, a.Start(t.Context()))
	gone := make(chan error)
	go func() {
		res, err := http.Get("http://" + a.Addr() + "/hangs")
		if err == nil {
			res.Body.Close()
		}
		gone <- err
	}()
	<-inside
	require.ErrorContains(t, a.Stop(), "requests were cut after 1ms")
	require.Error(t, <-gone)
}

func TestReachable(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:9009": "127.0.0.1:9009",
		"[::]:9009":      "localhost:9009",
		"0.0.0.0:80":     "localhost:80",
		"[::1]:80":       "[::1]:80",
	} {
		require.Equal(t, want, reachable(in))
	}
}

// gathered is the value of the only series of a counter or gauge.
func gathered(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// A part that fails ends the process, and its reason is told once.
func TestRunEndsWhenAPartFails(t *testing.T) {
	a, err := New(testConfig(t), discard())
	require.NoError(t, err)
	broken := services.NewBasicService(nil, func(context.Context) error { return errors.New("out of coal") }, nil)
	a.parts = append(a.parts, part{"stove", broken})
	err = a.Run(t.Context(), io.Discard)
	require.ErrorContains(t, err, "out of coal")
	require.Equal(t, 1, strings.Count(err.Error(), "out of coal"), err)
}
