package app

import (
	"net"
	"net/http"
	"sync"
)

// maxConns is how many HTTP connections are kept open. Each costs about 20 KiB
// and a file, and files are what the parts need to store anything.
const maxConns = 8192

// conns keeps open connections below a number: when there are too many, one is
// closed that nobody uses just then, of the address that has the most. A client
// with thousands of connections so loses its own, not others theirs. A proxy
// that has many clients keeps as many as there are requests under way.
type conns struct {
	max int

	mu     sync.Mutex
	total  int
	byAddr map[string]map[net.Conn]bool // true: no request is under way
}

// follow is http.Server.ConnState.
func (c *conns) follow(conn net.Conn, s http.ConnState) {
	addr, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		addr = conn.RemoteAddr().String()
	}
	if surplus := c.note(addr, conn, s); surplus != nil {
		_ = surplus.Close() // its own state says so in a moment
	}
}

// note returns a connection to close, nil if there is none.
func (c *conns) note(addr string, conn net.Conn, s http.ConnState) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s {
	case http.StateNew:
		if c.byAddr == nil {
			c.byAddr = map[string]map[net.Conn]bool{}
		}
		if c.byAddr[addr] == nil {
			c.byAddr[addr] = map[net.Conn]bool{}
		}
		c.byAddr[addr][conn] = true
		if c.total++; c.total > c.max {
			return c.surplus(addr, conn)
		}
	case http.StateActive, http.StateIdle:
		if of := c.byAddr[addr]; of != nil {
			of[conn] = s == http.StateIdle
		}
	case http.StateClosed, http.StateHijacked:
		if _, ok := c.byAddr[addr][conn]; ok {
			c.total--
			if delete(c.byAddr[addr], conn); len(c.byAddr[addr]) == 0 {
				delete(c.byAddr, addr)
			}
		}
	}
	return nil
}

// surplus is a connection without a request of the address with the most. If
// all of them have one it is the new one, where that has the same address or
// there are far too many.
func (c *conns) surplus(addr string, conn net.Conn) net.Conn {
	most := addr
	for a, of := range c.byAddr {
		if len(of) > len(c.byAddr[most]) {
			most = a
		}
	}
	for other, idle := range c.byAddr[most] {
		if idle && other != conn {
			return other
		}
	}
	if most == addr || c.total > 2*c.max {
		return conn
	}
	return nil
}
