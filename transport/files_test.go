package transport

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/transport/transporttest"
)

const expiry = "hearth_transport_certificate_expiry_timestamp_seconds"

// serveHTTP answers over TLS with the protocol that it was asked in.
func serveHTTP(t *testing.T, n *node) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{
		TLSConfig: n.HTTP(),
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }),
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	done := make(chan error)
	go func() { done <- s.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return l.Addr().String()
}

// ask makes a connection of its own. It returns the answer and what the server
// has shown.
func ask(addr string, trust *transporttest.CA, shows ...tls.Certificate) (string, *x509.Certificate, error) {
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: trust.Pool(), Certificates: shows},
		ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get("https://" + addr)
	if err != nil {
		return "", nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), res.TLS.PeerCertificates[0], err
}

func httpNode(t *testing.T, f transporttest.Files, clientCA string) *node {
	t.Helper()
	return newNode(t, DefaultConfig(), HTTPTLS{CertFile: f.Cert, KeyFile: f.Key, ClientCAFile: clientCA})
}

func TestNoFilesNoTLS(t *testing.T) {
	t.Parallel()
	n := newNode(t, DefaultConfig(), HTTPTLS{})
	require.Nil(t, n.HTTP())
	require.Zero(t, n.value(t, expiry, "server.http_tls"))
}

func TestHTTPServerCertificate(t *testing.T) {
	t.Parallel()
	ca, other := transporttest.NewCA(t), transporttest.NewCA(t)
	end := time.Now().Add(30 * time.Minute).Truncate(time.Second)
	n := httpNode(t, ca.Issue(transporttest.Leaf{NotAfter: end}).Write(t, t.TempDir()), "")
	addr := serveHTTP(t, n)

	body, _, err := ask(addr, ca)
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", body)
	require.Equal(t, float64(end.Unix()), n.value(t, expiry, "server.http_tls"))

	var unknown x509.UnknownAuthorityError
	_, _, err = ask(addr, other)
	require.ErrorAs(t, err, &unknown)

	_, err = tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool(), MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	require.ErrorContains(t, err, "protocol version")

	res, err := http.Get("http://" + addr)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	http.DefaultClient.CloseIdleConnections()
}

func TestHTTPMutual(t *testing.T) {
	t.Parallel()
	ca, clients, other := transporttest.NewCA(t), transporttest.NewCA(t), transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), clients)
	addr := serveHTTP(t, httpNode(t, f, f.CA))
	client := transporttest.Leaf{Names: []string{"grafana"}, Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}

	body, _, err := ask(addr, ca, clients.Issue(client).TLS(t))
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", body)

	_, err = shove(addr, ca, tls.Certificate{})
	require.ErrorContains(t, err, "certificate required")
	_, err = shove(addr, ca, other.Issue(client).TLS(t))
	require.ErrorContains(t, err, "unknown certificate authority")
	client.NotAfter = time.Now().Add(-time.Minute)
	_, err = shove(addr, ca, clients.Issue(client).TLS(t))
	require.ErrorContains(t, err, "expired certificate")
	client.NotAfter, client.Usage = time.Time{}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	_, err = shove(addr, ca, clients.Issue(client).TLS(t))
	require.ErrorContains(t, err, "bad certificate")
}

// shove shows a certificate whatever the server asks for, which clients usually
// do not, and waits for what the server has to say.
func shove(addr string, trust *transporttest.CA, cert tls.Certificate) (*tls.Conn, error) {
	conn, err := tls.Dial("tcp", addr, &tls.Config{
		RootCAs:              trust.Pool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	_, err = conn.Read(make([]byte, 1))
	return conn, err
}

func TestRenewalIsPickedUp(t *testing.T) {
	t.Parallel()
	ca, oldClients, newClients := transporttest.NewCA(t), transporttest.NewCA(t), transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), oldClients)
	n := httpNode(t, f, f.CA)
	addr := serveHTTP(t, n)
	old, young := oldClients.Issue(transporttest.Leaf{}).TLS(t), newClients.Issue(transporttest.Leaf{}).TLS(t)
	_, before, err := ask(addr, ca, old)
	require.NoError(t, err)

	end := time.Now().Add(3 * time.Hour).Truncate(time.Second)
	ca.Issue(transporttest.Leaf{NotAfter: end}).Write(t, f.Dir, newClients)
	until(t, func() bool {
		_, shown, err := ask(addr, ca, young)
		return err == nil && !shown.Equal(before) && shown.NotAfter.Equal(end)
	}, "the new certificate is served, and the new authority holds")
	_, _, err = ask(addr, ca, old)
	require.Error(t, err, "the old authority holds no more")
	require.Equal(t, float64(end.Unix()), n.value(t, expiry, "server.http_tls"))
	require.Contains(t, n.log.String(), "certificate read anew")
	require.Zero(t, n.value(t, "hearth_transport_certificate_load_failures_total", "server.http_tls"))
}

// Kubernetes mounts a secret as links to links, and renews it by replacing the
// link to a folder.
func TestRenewalByLink(t *testing.T) {
	t.Parallel()
	ca, dir := transporttest.NewCA(t), t.TempDir()
	mount := func(version string, l transporttest.Leaf) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		ca.Issue(l).Write(t, filepath.Join(dir, version))
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..next")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")))
	}
	mount("..1", transporttest.Leaf{})
	for _, name := range []string{"tls.crt", "tls.key"} {
		require.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
	}
	n := httpNode(t, transporttest.Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}, "")

	end := time.Now().Add(3 * time.Hour).Truncate(time.Second)
	mount("..2", transporttest.Leaf{NotAfter: end})
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "..1")))
	until(t, func() bool { return n.value(t, expiry, "server.http_tls") == float64(end.Unix()) },
		"asking for the metric is enough to look")
}

func TestWhatCannotBeUsedIsNot(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	good, next := ca.Issue(transporttest.Leaf{}), ca.Issue(transporttest.Leaf{NotAfter: time.Now().Add(2 * time.Hour)})
	past := ca.Issue(transporttest.Leaf{NotAfter: time.Now().Add(-time.Minute)})
	future := ca.Issue(transporttest.Leaf{NotBefore: time.Now().Add(time.Minute)})
	for name, broken := range map[string]struct {
		cert, key, ca []byte
		says          string
	}{
		"half a certificate":      {next.Cert[:len(next.Cert)/2], next.Key, ca.PEM, "failed to find any PEM data"},
		"half a key":              {next.Cert, next.Key[:len(next.Key)/2], ca.PEM, "failed to find any PEM data"},
		"certificate before key":  {next.Cert, good.Key, ca.PEM, "private key does not match public key"},
		"empty":                   {nil, nil, nil, "failed to find any PEM data"},
		"half of the authorities": {next.Cert, next.Key, append(ca.PEM[:len(ca.PEM):len(ca.PEM)], ca.PEM[:100]...), "client_ca_file: certificate 2 is cut off"},
		"no authority":            {next.Cert, next.Key, []byte("hello"), "client_ca_file: has no certificate in PEM"},
		"authority out of joint":  {next.Cert, next.Key, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "client_ca_file: certificate 1: "},
		"expired":                 {past.Cert, past.Key, ca.PEM, "the certificate is valid from"},
		"not valid yet":           {future.Cert, future.Key, ca.PEM, "the certificate is valid from"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := good.Write(t, t.TempDir(), ca)
			n := httpNode(t, f, f.CA)
			addr, client := serveHTTP(t, n), good.TLS(t)
			_, before, err := ask(addr, ca, client)
			require.NoError(t, err)

			for path, text := range map[string][]byte{f.Cert: broken.cert, f.Key: broken.key, f.CA: broken.ca} {
				require.NoError(t, os.WriteFile(path, text, 0o600))
			}
			until(t, func() bool {
				_, shown, err := ask(addr, ca, client)
				require.NoError(t, err, "the old one stays in use")
				require.True(t, shown.Equal(before))
				return n.value(t, "hearth_transport_certificate_load_failures_total", "server.http_tls") >= 2
			}, "failures are counted")
			require.Equal(t, 1, strings.Count(n.log.String(), "cannot be used"), "and told once:\n%s", n.log)
			require.Contains(t, n.log.String(), broken.says)

			next.Write(t, f.Dir, ca)
			until(t, func() bool {
				_, shown, err := ask(addr, ca, client)
				return err == nil && !shown.Equal(before)
			}, "the whole one is picked up")
		})
	}
}

// shown is the number that tells a certificate from others.
func shown(m *material) string { return m.pair.Leaf.SerialNumber.String() }

// However many handshakes there are, the disk is looked at every two seconds.
func TestLooksAreBounded(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	leaf := transporttest.Leaf{NotBefore: time.Unix(0, 0)} // the time in a bubble is long ago
	f, renewed := ca.Issue(leaf).Write(t, t.TempDir()), ca.Issue(leaf)
	synctest.Test(t, func(t *testing.T) {
		n, err := New(DefaultConfig(), HTTPTLS{CertFile: f.Cert, KeyFile: f.Key}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		require.NoError(t, err)
		before := n.http.current()
		renewed.Write(t, f.Dir)
		time.Sleep(lookEvery - time.Nanosecond)
		require.Equal(t, shown(before), shown(n.http.current()))
		time.Sleep(time.Nanosecond)
		after := n.http.current()
		require.NotEqual(t, shown(before), shown(after))
		time.Sleep(time.Hour)
		require.Equal(t, shown(after), shown(n.http.current()))
	})
}

func TestExpiredAtStartIsToldAndRenewed(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{NotAfter: time.Now().Add(-time.Minute)}).Write(t, t.TempDir())
	n := httpNode(t, f, "")
	require.Contains(t, n.log.String(), "clients will refuse this certificate")
	addr := serveHTTP(t, n)
	_, _, err := ask(addr, ca)
	require.ErrorContains(t, err, "certificate has expired")

	ca.Issue(transporttest.Leaf{}).Write(t, f.Dir)
	until(t, func() bool {
		_, _, err := ask(addr, ca)
		return err == nil
	}, "the renewed one is picked up")
}

func TestNewNamesTheKeyToChange(t *testing.T) {
	t.Parallel()
	ca, other := transporttest.NewCA(t), transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)
	issue := func(from *transporttest.CA, l transporttest.Leaf) Config {
		return memberConfig(from.Issue(l).Write(t, t.TempDir(), ca))
	}
	serverOnly := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for want, cfg := range map[string]struct {
		cluster Config
		http    HTTPTLS
	}{
		"server.http_tls.cert_file: open ":                                {DefaultConfig(), HTTPTLS{CertFile: f.Cert + ".not", KeyFile: f.Key}},
		"server.http_tls.key_file: open ":                                 {DefaultConfig(), HTTPTLS{CertFile: f.Cert, KeyFile: f.Key + ".not"}},
		"server.http_tls.client_ca_file: open ":                           {DefaultConfig(), HTTPTLS{CertFile: f.Cert, KeyFile: f.Key, ClientCAFile: f.CA + ".not"}},
		"server.http_tls.cert_file and key_file: tls: ":                   {DefaultConfig(), HTTPTLS{CertFile: f.Key, KeyFile: f.Cert}},
		"cluster.tls.ca_file: open ":                                      {memberConfig(transporttest.Files{Cert: f.Cert, Key: f.Key, CA: "not"}), HTTPTLS{}},
		"cluster.tls.cert_file: other members would refuse it as a serv":  {issue(other, transporttest.Leaf{}), HTTPTLS{}},
		"cluster.tls.cert_file: other members would refuse it as a clien": {issue(ca, transporttest.Leaf{Usage: serverOnly}), HTTPTLS{}},
		"not hearth": {issue(ca, transporttest.Leaf{Names: []string{"vault"}}), HTTPTLS{}},
	} {
		_, err := New(cfg.cluster, cfg.http, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		require.ErrorContains(t, err, want)
	}
}
