package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/transport/transporttest"
)

// A client writes and queries over HTTPS with its certificate, the server's is
// renewed while it runs, and who has none does not come in, not even to look.
func TestHTTPS(t *testing.T) {
	ca, clients := transporttest.NewCA(t), transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), clients)
	cfg := testConfig(t)
	cfg.Server.HTTPTLS.CertFile, cfg.Server.HTTPTLS.KeyFile, cfg.Server.HTTPTLS.ClientCAFile = f.Cert, f.Key, f.CA
	require.NoError(t, cfg.Validate())
	a := start(t, cfg)

	var welcome strings.Builder
	a.welcome(&welcome)
	require.Contains(t, welcome.String(), "https://"+a.Addr()+"/api/v1/push")
	require.NotContains(t, welcome.String(), "http://")

	client := httpsClient(t, ca, clients.Issue(transporttest.Leaf{}).TLS(t))
	res := do(t, client, http.MethodPost, "https://"+a.Addr()+"/api/v1/push", aSample(t))
	require.Equal(t, 2, res.ProtoMajor, "HTTP/2")
	require.Equal(t, http.StatusOK, res.StatusCode)
	res = do(t, client, http.MethodGet, "https://"+a.Addr()+"/prometheus/api/v1/query?query=sealed", nil)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Contains(t, string(body), `"7"`)

	for _, path := range []string{"/ready", "/metrics", "/api/v1/push"} {
		_, err = httpsClient(t, ca).Get("https://" + a.Addr() + path)
		require.Error(t, err, "no certificate")
	}

	end := time.Now().Add(5 * time.Hour).Truncate(time.Second)
	ca.Issue(transporttest.Leaf{NotAfter: end}).Write(t, f.Dir, clients)
	require.Eventually(t, func() bool {
		return gathered(t, a.reg, "hearth_transport_certificate_expiry_timestamp_seconds") == float64(end.Unix())
	}, 20*time.Second, 50*time.Millisecond)
	client = httpsClient(t, ca, clients.Issue(transporttest.Leaf{}).TLS(t))
	require.True(t, do(t, client, http.MethodGet, "https://"+a.Addr()+"/ready", nil).TLS.PeerCertificates[0].NotAfter.Equal(end))
}

func TestStartNamesTheFileThatIsMissing(t *testing.T) {
	cfg := testConfig(t)
	cfg.Server.HTTPTLS.CertFile, cfg.Server.HTTPTLS.KeyFile = "/nowhere/tls.crt", "/nowhere/tls.key"
	_, err := New(cfg, discard())
	require.ErrorContains(t, err, "server.http_tls.cert_file: open /nowhere/tls.crt")
}

// The gRPC port is for members: TLS with their certificates, then the secret.
func TestMembersOnly(t *testing.T) {
	ca := transporttest.NewCA(t)
	leaf := ca.Issue(transporttest.Leaf{})
	f := leaf.Write(t, t.TempDir(), ca)
	cfg := testConfig(t)
	cfg.Cluster.Secret = "a long and tedious secret"
	cfg.Cluster.TLS.CertFile, cfg.Cluster.TLS.KeyFile, cfg.Cluster.TLS.CAFile = f.Cert, f.Key, f.CA
	require.NoError(t, cfg.Validate())
	a := start(t, cfg)

	member, err := a.transport.Dial(a.GRPCAddr())
	require.NoError(t, err)
	defer member.Close()
	_, err = healthpb.NewHealthClient(member).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)

	conf := &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{leaf.TLS(t)}, ServerName: "hearth"}
	probe, err := grpc.NewClient(a.GRPCAddr(), grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	require.NoError(t, err)
	defer probe.Close()
	_, err = healthpb.NewHealthClient(probe).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err, "health can be asked without the secret")
	err = probe.Invoke(t.Context(), "/hearth.Ingester/Push", &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{})
	require.ErrorContains(t, err, "err-cluster-secret")

	_, body := get(t, a, "/config")
	require.Contains(t, body, "secret: '********'")
	require.NotContains(t, body, "tedious")
}

func TestSecretFromTheEnvironment(t *testing.T) {
	cfg, err := load(t, "cluster: {secret: \"${HUSH}\"}\n", map[string]string{"HUSH": "0123456789abcdef"})
	require.NoError(t, err)
	require.Equal(t, "0123456789abcdef", string(cfg.Cluster.Secret))
	_, err = load(t, "cluster: {secret: hush}\nserver: {http_tls: {cert_file: a}}\n", nil)
	require.ErrorContains(t, err, "cluster.secret: want at least 16 characters")
	require.ErrorContains(t, err, "server.http_tls.cert_file and key_file belong together")
}

func httpsClient(t *testing.T, trust *transporttest.CA, shows ...tls.Certificate) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust.Pool(), Certificates: shows}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// do asks as the tenant acme.
func do(t *testing.T, c *http.Client, method, url string, body []byte) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set(tenant.Header, "acme")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-protobuf")
		req.Header.Set("Content-Encoding", "snappy")
	}
	res, err := c.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// aSample is a remote-write request: sealed 7, now.
func aSample(t *testing.T) []byte {
	t.Helper()
	req := &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: "sealed"}},
		Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: 7}},
	}}}
	text, err := req.Marshal()
	require.NoError(t, err)
	return snappy.Encode(nil, text)
}
