package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/hearth-metrics/hearth/transport/transporttest"
)

const refused = "hearth_transport_refused_total"

// echo is a service of members: one method of each kind.
var echo = grpc.ServiceDesc{
	ServiceName: "test.Echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Once", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		m := &wrapperspb.BytesValue{}
		return m, dec(m)
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Stream", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			m := &wrapperspb.BytesValue{}
			if err := s.RecvMsg(m); err != nil {
				return nil
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}}},
}

// serve starts a member's gRPC server.
func serve(t testing.TB, n *node) (addr string) {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", n.ServerOptions()...)
}

func serveAt(t testing.TB, addr string, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	s := grpc.NewServer(opts...)
	s.RegisterService(&echo, nil)
	healthpb.RegisterHealthServer(s, health.NewServer())
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		require.NoError(t, <-done)
	})
	return l.Addr().String()
}

func dial(t testing.TB, n *node, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := n.Dial(addr)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// once makes a call of one message, stream of many.
func once(conn *grpc.ClientConn, size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return conn.Invoke(ctx, "/test.Echo/Once", &wrapperspb.BytesValue{Value: make([]byte, size)}, &wrapperspb.BytesValue{})
}

func stream(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &echo.Streams[0], "/test.Echo/Stream")
	if err != nil {
		return err
	}
	for range 3 {
		// What the server thinks of it is what RecvMsg says.
		_ = s.SendMsg(&wrapperspb.BytesValue{Value: []byte("hi")})
		if err := s.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
			return err
		}
	}
	return s.CloseSend()
}

func healthOf(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// probe is a client that knows nothing of Hearth.
func probe(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// fresh calls over a connection of its own.
func fresh(t *testing.T, n *node, addr string) error {
	t.Helper()
	conn, err := n.Dial(addr)
	require.NoError(t, err)
	defer conn.Close()
	return once(conn, 1)
}

func TestMembersSpeak(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)
	for name, cfg := range map[string]Config{
		"neither": DefaultConfig(),
		"secret":  withSecret(DefaultConfig(), secret),
		"TLS":     memberConfig(f),
		"both":    withSecret(memberConfig(f), secret),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newNode(t, cfg, HTTPTLS{})
			conn := dial(t, newNode(t, cfg, HTTPTLS{}), serve(t, server))
			require.NoError(t, once(conn, 8<<20), "larger than gRPC's own bound")
			require.NoError(t, stream(conn))
			require.NoError(t, healthOf(conn))
			require.Equal(t, codes.ResourceExhausted, status.Code(once(conn, maxMessageBytes+1)))
			require.NoError(t, once(conn, 1))
			for _, reason := range []string{reasonTLS, reasonNoSecret, reasonWrongSecret} {
				require.Zero(t, server.value(t, refused, reason))
			}
		})
	}
}

func TestWithoutTheSecretNothingButHealth(t *testing.T) {
	t.Parallel()
	server := newNode(t, withSecret(DefaultConfig(), secret), HTTPTLS{})
	addr := serve(t, server)
	for name, conn := range map[string]*grpc.ClientConn{
		"a member without": dial(t, newNode(t, DefaultConfig(), HTTPTLS{}), addr),
		"a stranger":       probe(t, addr),
	} {
		before := server.value(t, refused, reasonNoSecret)
		for i, err := range []error{once(conn, 1), stream(conn), conn.Invoke(t.Context(), "/no.Such/Method", &wrapperspb.BytesValue{}, &wrapperspb.BytesValue{})} {
			require.Equal(t, codes.Unauthenticated, status.Code(err), "%s, call %d: %v", name, i, err)
			require.ErrorContains(t, err, "set cluster.secret")
			require.ErrorContains(t, err, secretErrorID)
		}
		require.NoError(t, healthOf(conn), name)
		require.Equal(t, before+3, server.value(t, refused, reasonNoSecret))
	}
	require.Contains(t, server.log.String(), "not let in as a member")
	require.NotContains(t, server.log.String(), secret)
}

func TestAnotherSecret(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)
	for _, base := range []Config{DefaultConfig(), memberConfig(f)} {
		server := newNode(t, withSecret(base, secret), HTTPTLS{})
		conn := dial(t, newNode(t, withSecret(base, "another "+secret), HTTPTLS{}), serve(t, server))
		for range 3 {
			for _, err := range []error{once(conn, 1), stream(conn)} {
				require.Equal(t, codes.Unauthenticated, status.Code(err), err)
				require.ErrorContains(t, err, "make cluster.secret the same on both")
				require.ErrorContains(t, err, secretErrorID)
			}
		}
		require.Equal(t, 1.0, server.value(t, refused, reasonWrongSecret), "the client holds back its calls; its connection is counted")
		require.Contains(t, server.log.String(), "reason=wrong_secret")
	}
}

// A client that has failed to prove the secret and calls nevertheless.
func TestAnotherSecretShoved(t *testing.T) {
	t.Parallel()
	server := newNode(t, withSecret(DefaultConfig(), secret), HTTPTLS{})
	client := newNode(t, withSecret(DefaultConfig(), "another "+secret), HTTPTLS{})
	conn, err := grpc.NewClient(serve(t, server), grpc.WithTransportCredentials(&creds{client.Transport})) // and nothing that holds back
	require.NoError(t, err)
	defer conn.Close()
	for _, err := range []error{once(conn, 1), stream(conn)} {
		require.Equal(t, codes.Unauthenticated, status.Code(err), err)
		require.ErrorContains(t, err, "different cluster secrets")
	}
	require.NoError(t, healthOf(conn))
	require.Equal(t, 3.0, server.value(t, refused, reasonWrongSecret))
}

func TestServerWithoutSecretIsNotTrusted(t *testing.T) {
	t.Parallel()
	client := newNode(t, withSecret(DefaultConfig(), secret), HTTPTLS{})
	err := fresh(t, client, serve(t, newNode(t, DefaultConfig(), HTTPTLS{})))
	require.ErrorContains(t, err, "is cluster.secret set there?")
}

// All can change the secret one after the other, in three rounds, and at each
// moment everyone speaks with everyone.
func TestSecretIsChanged(t *testing.T) {
	t.Parallel()
	const old, young = Secret("old " + secret), Secret("young " + secret)
	rounds := []Config{{Secret: old}, {Secret: old, AcceptSecret: young}, {Secret: young, AcceptSecret: old}, {Secret: young}}
	for i := range rounds[1:] {
		a, b := newNode(t, rounds[i], HTTPTLS{}), newNode(t, rounds[i+1], HTTPTLS{})
		require.NoError(t, fresh(t, a, serve(t, b)), "round %d", i+1)
		require.NoError(t, fresh(t, b, serve(t, a)), "round %d", i+1)
	}
	require.Error(t, fresh(t, newNode(t, rounds[3], HTTPTLS{}), serve(t, newNode(t, rounds[0], HTTPTLS{}))))
}

func TestMemberCertificates(t *testing.T) {
	t.Parallel()
	ca, other := transporttest.NewCA(t), transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)
	server := newNode(t, memberConfig(f), HTTPTLS{})
	addr := serve(t, server)
	require.NoError(t, fresh(t, newNode(t, memberConfig(f), HTTPTLS{}), addr))

	for name, tc := range map[string]struct {
		from *transporttest.CA
		leaf transporttest.Leaf
		says string
	}{
		"nothing":         {nil, transporttest.Leaf{}, "client didn't provide a certificate"},
		"other authority": {other, transporttest.Leaf{}, "certificate signed by unknown authority"},
		"expired":         {ca, transporttest.Leaf{NotAfter: time.Now().Add(-time.Minute)}, "certificate has expired"},
		"other name":      {ca, transporttest.Leaf{Names: []string{"vault"}}, "not hearth"},
		"server only":     {ca, transporttest.Leaf{Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, "incompatible key usage"},
	} {
		before := server.value(t, refused, reasonTLS)
		var cert tls.Certificate
		if tc.from != nil {
			cert = tc.from.Issue(tc.leaf).TLS(t)
		}
		_, err := shove(addr, ca, cert)
		require.ErrorContains(t, err, "tls: ", name)
		until(t, func() bool { return server.value(t, refused, reasonTLS) == before+1 }, name)
		until(t, func() bool { return strings.Contains(server.log.String(), tc.says) }, "%s: want %q in\n%s", name, tc.says, server.log)
	}
	require.Error(t, healthOf(probe(t, addr)), "without TLS")
	_, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool(), MaxVersion: tls.VersionTLS12})
	require.ErrorContains(t, err, "protocol version")
}

// A client refuses servers that are no members, before it shows its calls.
func TestServerCertificates(t *testing.T) {
	t.Parallel()
	ca, other := transporttest.NewCA(t), transporttest.NewCA(t)
	client := newNode(t, memberConfig(ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)), HTTPTLS{})
	for want, l := range map[string]net.Listener{
		"certificate signed by unknown authority": fakeServer(t, other.Issue(transporttest.Leaf{})),
		"certificate has expired":                 fakeServer(t, ca.Issue(transporttest.Leaf{NotAfter: time.Now().Add(-time.Minute)})),
		"not hearth":                              fakeServer(t, ca.Issue(transporttest.Leaf{Names: []string{"vault"}})),
		"incompatible key usage":                  fakeServer(t, ca.Issue(transporttest.Leaf{Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})),
	} {
		err := fresh(t, client, l.Addr().String())
		require.Equal(t, codes.Unavailable, status.Code(err))
		require.ErrorContains(t, err, want)
	}
}

// Somebody has the certificate of a member, but not the secret, and passes on
// what two members say to each other, which would be the proof as well.
func TestNobodyStandsBetween(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	stolen := ca.Issue(transporttest.Leaf{})
	n := newNode(t, withSecret(memberConfig(stolen.Write(t, t.TempDir(), ca)), secret), HTTPTLS{})
	addr := serve(t, n)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{stolen.TLS(t)}, NextProtos: []string{"h2"}})
	require.NoError(t, err)
	defer l.Close()
	go func() {
		in, err := l.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{stolen.TLS(t)}, ServerName: "hearth", NextProtos: []string{"h2"}})
		if err != nil {
			return
		}
		defer out.Close()
		go func() { _, _ = io.Copy(in, out) }()
		_, _ = io.Copy(out, in)
	}()
	err = fresh(t, n, l.Addr().String())
	require.Equal(t, codes.Unauthenticated, status.Code(err), err)
	require.ErrorContains(t, err, "different cluster secrets")
	require.Equal(t, 1.0, n.value(t, refused, reasonWrongSecret))
}

// fakeServer speaks TLS and nothing else.
func fakeServer(t *testing.T, p transporttest.Pair) net.Listener {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{p.TLS(t)}, NextProtos: []string{"h2"}})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l
}

// Two members change to a new authority while both run: first both trust both,
// then each gets its new certificate, then the old authority goes.
func TestMembersRenewEverything(t *testing.T) {
	t.Parallel()
	old, young := transporttest.NewCA(t), transporttest.NewCA(t)
	oldLeaf, youngLeaf := old.Issue(transporttest.Leaf{}), young.Issue(transporttest.Leaf{})
	fa, fb := oldLeaf.Write(t, t.TempDir(), old), oldLeaf.Write(t, t.TempDir(), old)
	a, b := newNode(t, withSecret(memberConfig(fa), secret), HTTPTLS{}), newNode(t, withSecret(memberConfig(fb), secret), HTTPTLS{})
	atA, atB := serve(t, a), serve(t, b)
	open := dial(t, a, atB)
	both := func(step string) {
		require.NoError(t, fresh(t, a, atB), step)
		require.NoError(t, fresh(t, b, atA), step)
		require.NoError(t, once(open, 1), "%s: a connection that is open stays", step)
	}
	both("before")
	steps := []struct {
		what   string
		file   transporttest.Files
		of     *node
		pair   transporttest.Pair
		trusts []*transporttest.CA
	}{
		{"a trusts both", fa, a, oldLeaf, []*transporttest.CA{old, young}},
		{"b trusts both", fb, b, oldLeaf, []*transporttest.CA{old, young}},
		{"a has a new certificate", fa, a, youngLeaf, []*transporttest.CA{old, young}},
		{"b has a new certificate", fb, b, youngLeaf, []*transporttest.CA{old, young}},
		{"a trusts the new only", fa, a, youngLeaf, []*transporttest.CA{young}},
		{"b trusts the new only", fb, b, youngLeaf, []*transporttest.CA{young}},
	}
	for i, s := range steps {
		s.pair.Write(t, s.file.Dir, s.trusts...)
		until(t, func() bool {
			_ = s.of.value(t, expiry, "cluster.tls") // looks
			return strings.Count(s.of.log.String(), "certificate read anew") == i/2+1
		}, s.what)
		both(s.what)
	}
	_, err := shove(atA, young, oldLeaf.TLS(t))
	require.ErrorContains(t, err, "unknown certificate authority")
}

// Authorities that do not fit our own certificate would cut us off.
func TestWrongAuthorityIsNotTaken(t *testing.T) {
	t.Parallel()
	ca, other := transporttest.NewCA(t), transporttest.NewCA(t)
	leaf := ca.Issue(transporttest.Leaf{})
	f := leaf.Write(t, t.TempDir(), ca)
	n := newNode(t, memberConfig(f), HTTPTLS{})
	addr := serve(t, n)
	leaf.Write(t, f.Dir, other)
	until(t, func() bool {
		require.NoError(t, fresh(t, n, addr))
		return n.value(t, "hearth_transport_certificate_load_failures_total", "cluster.tls") > 0
	}, "it is counted")
	require.Contains(t, n.log.String(), "other members would refuse it as a server")
}

// A client that finds itself refused has nothing but its next connection to
// find out that its files are new.
func TestClientLooksByItself(t *testing.T) {
	t.Parallel()
	old, young := transporttest.NewCA(t), transporttest.NewCA(t)
	leaf := young.Issue(transporttest.Leaf{})
	addr := serve(t, newNode(t, memberConfig(leaf.Write(t, t.TempDir(), young)), HTTPTLS{}))
	f := old.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), old)
	client := newNode(t, memberConfig(f), HTTPTLS{})
	require.ErrorContains(t, fresh(t, client, addr), "unknown authority")
	leaf.Write(t, f.Dir, young)
	until(t, func() bool { return fresh(t, client, addr) == nil }, "renewed")
}

// However long a member was away, it is found again soon after it is back.
func TestReconnect(t *testing.T) {
	t.Parallel()
	n := newNode(t, withSecret(DefaultConfig(), secret), HTTPTLS{})
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		away := func(context.Context, string) (net.Conn, error) {
			tries.Add(1)
			return nil, errors.New("away")
		}
		conn, err := n.Dial("passthrough:///member", grpc.WithContextDialer(away))
		require.NoError(t, err)
		conn.Connect()
		defer conn.Close()
		time.Sleep(10 * time.Minute)
		before := tries.Load()
		time.Sleep(10 * time.Minute)
		require.InDelta(t, float64(10*time.Minute/maxReconnectDelay), float64(tries.Load()-before), 30)
	})

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	conn := dial(t, n, addr)
	require.Equal(t, codes.Unavailable, status.Code(once(conn, 1)))
	serveAt(t, addr, n.ServerOptions()...)
	until(t, func() bool { return once(conn, 1) == nil }, "back")
}

// What a call costs that goes from one end of the gate to the other.
func BenchmarkCall(b *testing.B) {
	ca := transporttest.NewCA(b)
	f := ca.Issue(transporttest.Leaf{}).Write(b, b.TempDir(), ca)
	for name, cfg := range map[string]Config{
		"neither": DefaultConfig(), "secret": withSecret(DefaultConfig(), secret),
		"tls": memberConfig(f), "both": withSecret(memberConfig(f), secret),
	} {
		b.Run(name, func(b *testing.B) {
			n := newNode(b, cfg, HTTPTLS{})
			conn := dial(b, n, serve(b, n))
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, once(conn, 100))
			}
		})
	}
}
