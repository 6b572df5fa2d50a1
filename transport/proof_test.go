package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// pipe is a connection whose ends give up after a while.
func pipe(t testing.TB) (client, server net.Conn) {
	t.Helper()
	client, server = net.Pipe()
	for _, c := range []net.Conn{client, server} {
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		t.Cleanup(func() { c.Close() })
	}
	return client, server
}

// verdict is what the server's side says.
type verdict struct {
	standing
	err error
}

func examined(conn net.Conn, secrets ...string) <-chan verdict {
	var all [][]byte
	for _, s := range secrets {
		all = append(all, []byte(s))
	}
	out := make(chan verdict, 1)
	go func() {
		_, is, err := examine(conn, all, nil)
		out <- verdict{is, err}
	}()
	return out
}

// A client that stands between two others, or a server that does, has its own
// TLS sessions with them: the proof of one does not fit the other.
func TestProofIsTiedToTheSession(t *testing.T) {
	t.Parallel()
	client, server := pipe(t)
	says := examined(server, secret)
	is, err := prove(client, []byte(secret), []byte("another session"))
	require.NoError(t, err)
	require.Equal(t, wrongSecret, is)
	require.Equal(t, verdict{wrongSecret, nil}, <-says)
}

// recorder keeps what is written.
type recorder struct {
	net.Conn
	written bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.written.Write(p)
	return r.Conn.Write(p)
}

func TestWhatIsOverheardIsOfNoUse(t *testing.T) {
	t.Parallel()
	client, server := pipe(t)
	heard, answered := &recorder{Conn: client}, &recorder{Conn: server}
	says := examined(answered, secret)
	is, err := prove(heard, []byte(secret), nil)
	require.NoError(t, err)
	require.Equal(t, trusted, is)
	require.Equal(t, verdict{trusted, nil}, <-says)
	require.NotContains(t, heard.written.String()+answered.written.String(), "horse")

	client, server = pipe(t)
	says = examined(server, secret)
	go io.Copy(io.Discard, client)
	_, err = client.Write(heard.written.Bytes())
	require.NoError(t, err)
	require.Equal(t, verdict{wrongSecret, nil}, <-says, "the client's side again")

	client, server = pipe(t)
	go io.Copy(io.Discard, server)
	go server.Write(answered.written.Bytes())
	is, err = prove(client, []byte(secret), nil)
	require.NoError(t, err)
	require.Equal(t, wrongSecret, is, "the server's side again")
}

// What the client has said does not do as an answer to it.
func TestServerCannotReflect(t *testing.T) {
	t.Parallel()
	client, server := pipe(t)
	go func() {
		first := make([]byte, len(hello)+nonceSize)
		_, _ = io.ReadFull(server, first)
		_, _ = server.Write(first[len(hello):])
		proof := make([]byte, 32)
		_, _ = io.ReadFull(server, proof)
		_, _ = server.Write(append([]byte{accepted}, proof...))
	}()
	is, err := prove(client, []byte(secret), nil)
	require.NoError(t, err)
	require.Equal(t, wrongSecret, is)
}

// A server that does not know the secret gets no calls, and so no data.
func TestCallsAreHeldBack(t *testing.T) {
	t.Parallel()
	for is, want := range map[standing]codes.Code{trusted: codes.OK, wrongSecret: codes.Unauthenticated, stranger: codes.Unauthenticated} {
		ctx := credentials.NewContextWithRequestInfo(t.Context(), credentials.RequestInfo{AuthInfo: member{standing: is}})
		_, err := holdBack{}.GetRequestMetadata(ctx)
		require.Equal(t, want, status.Code(err))
	}
	_, err := holdBack{}.GetRequestMetadata(t.Context())
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}

func TestProofEndsWithItsContext(t *testing.T) {
	t.Parallel()
	n := newNode(t, withSecret(DefaultConfig(), secret), HTTPTLS{})
	client, server := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, _, err := (&creds{n.Transport}).ClientHandshake(ctx, "", client)
		done <- err
	}()
	_, err := io.ReadFull(server, make([]byte, len(hello)+nonceSize)) // and no answer
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-done, io.ErrClosedPipe)
}

// script is a connection whose other end says what the fuzzer likes.
type script struct {
	net.Conn
	in io.Reader
}

func (s *script) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) { return len(p), nil }

// Whatever comes, nobody is trusted, and one that does not begin as a member
// loses no byte.
func FuzzExamine(f *testing.F) {
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte(hello + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"))
	f.Add([]byte(hello))
	f.Fuzz(func(t *testing.T, said []byte) {
		conn, is, err := examine(&script{in: bytes.NewReader(said)}, [][]byte{[]byte(secret)}, nil)
		require.NotEqual(t, trusted, is)
		if err != nil {
			require.True(t, errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), err)
			return
		}
		if is == stranger {
			all, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.Equal(t, said, all)
		}
	})
}

// What the secret adds to each call: nothing is computed, because the
// connection has done so.
func BenchmarkGate(b *testing.B) {
	n := newNode(b, withSecret(DefaultConfig(), secret), HTTPTLS{})
	who := member{standing: trusted}
	in := peer.NewContext(b.Context(), &peer.Peer{AuthInfo: who})
	out := credentials.NewContextWithRequestInfo(b.Context(), credentials.RequestInfo{AuthInfo: who})
	call := &tap.Info{FullMethodName: "/hearth.Ingester/Push"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (holdBack{}).GetRequestMetadata(out); err != nil {
			b.Fatal(err)
		}
		if _, err := n.admit(in, call); err != nil {
			b.Fatal(err)
		}
	}
}

// What it adds to each connection.
func BenchmarkProof(b *testing.B) {
	client, server := net.Pipe()
	defer client.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer server.Close()
	b.ReportAllocs()
	for b.Loop() {
		wg.Go(func() { _, _, _ = examine(server, [][]byte{[]byte(secret)}, nil) })
		if is, err := prove(client, []byte(secret), nil); err != nil || is != trusted {
			b.Fatal(is, err)
		}
		wg.Wait()
	}
}
