package app

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// end is one end of a connection from an address.
type end struct {
	net.Conn
	addr string
}

func (e end) RemoteAddr() net.Addr { return addr(e.addr) }

type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

func TestWhoHasTheMostConnectionsLosesIdleOnes(t *testing.T) {
	c := &conns{max: 10}
	open := func(from string, state http.ConnState) end {
		e := end{addr: from + ":1"}
		e.Conn, _ = net.Pipe()
		c.follow(e, http.StateNew)
		c.follow(e, state)
		return e
	}
	closed := func(e end) bool {
		_ = e.SetDeadline(time.Now().Add(-time.Second)) // of a pipe that is closed: an error
		_, err := e.Read(make([]byte, 1))
		return err != nil && err.Error() == "io: read/write on closed pipe"
	}
	count := func(all []end) (n int) {
		for _, e := range all {
			if closed(e) {
				n++
			}
		}
		return n
	}
	var quiet, greedy []end
	for range 3 {
		quiet = append(quiet, open("quiet", http.StateIdle))
	}
	for range 20 {
		greedy = append(greedy, open("greedy", http.StateIdle))
		for _, e := range greedy {
			if closed(e) {
				c.follow(e, http.StateClosed)
			}
		}
	}
	require.Equal(t, 13, count(greedy))
	require.Zero(t, count(quiet))
	for _, e := range greedy {
		if !closed(e) {
			c.follow(e, http.StateActive)
		}
	}
	refused := open("greedy", http.StateActive)
	require.True(t, closed(refused), "all it has are in use: no more")
	c.follow(refused, http.StateClosed)
	require.False(t, closed(open("new", http.StateActive)))
	require.Equal(t, 13, count(greedy), "what is in use is let be")
	for _, e := range append(append([]end{}, quiet...), greedy...) {
		c.follow(e, http.StateClosed)
		c.follow(e, http.StateClosed) // twice is once
	}
	require.Equal(t, 1, c.total)
	require.Len(t, c.byAddr, 1)
	for range 20 { // one that has had no request yet is not in use either
		e := open("silent", http.StateNew)
		require.False(t, closed(e), "older ones give way first")
	}
}

// With a real server: more clients than there may be are all served, one after
// the other.
func TestConnectionsAreReplaced(t *testing.T) {
	c := &conns{max: 5}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	s.Config.ConnState = c.follow
	s.Start()
	t.Cleanup(s.Close)
	for range 50 {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"))
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusNoContent, res.StatusCode)
		require.Eventually(t, func() bool { // the answer is out before the server calls the connection idle
			c.mu.Lock()
			defer c.mu.Unlock()
			idle := 0
			for _, of := range c.byAddr {
				for _, is := range of {
					if is {
						idle++
					}
				}
			}
			return c.total <= 5 && idle == c.total
		}, time.Minute, time.Millisecond)
	}
}
