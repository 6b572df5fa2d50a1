package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// network is what lies between the members of a cluster, so that it can be cut.
// Each member is known to the others at a loopback address of its own, where a
// proxy listens on the ports of gossip and gRPC. What a cut holds up arrives
// when it is healed, as with a cable: nobody is told.
type network struct {
	t testing.TB

	mu      sync.Mutex
	changed sync.Cond
	cut     map[*node]bool
	nodes   []*node
	proxies map[*node][]net.Listener
	conns   map[net.Conn]bool
	closed  bool
	wg      sync.WaitGroup
}

func newNetwork(t testing.TB) *network {
	if runtime.GOOS != "linux" {
		t.Skip("needs all of 127.0.0.0/8, and /proc to tell who calls")
	}
	w := &network{t: t, cut: map[*node]bool{}, proxies: map[*node][]net.Listener{}, conns: map[net.Conn]bool{}}
	w.changed.L = &w.mu
	t.Cleanup(w.close)
	return w
}

// put gives a node its address, and proxies there. A second time it has other
// ports.
func (w *network) put(n *node, number int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	n.host = fmt.Sprintf("127.0.1.%d", number)
	for _, l := range w.proxies[n] {
		l.Close()
	}
	if w.proxies[n] == nil {
		w.nodes = append(w.nodes, n)
	}
	w.proxies[n] = nil
	for _, port := range []int{n.grpc, n.gossip} {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", n.host, port))
		if err != nil {
			w.t.Fatal(err)
		}
		w.proxies[n] = append(w.proxies[n], l)
		w.wg.Go(func() { w.serve(l, n, port) })
	}
}

// set cuts a node off from all others, or ends that.
func (w *network) set(n *node, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[n] = cut
	w.changed.Broadcast()
}

func (w *network) close() {
	w.mu.Lock()
	w.closed = true
	for _, listeners := range w.proxies {
		for _, l := range listeners {
			l.Close()
		}
	}
	for c := range w.conns {
		c.Close()
	}
	w.changed.Broadcast()
	w.mu.Unlock()
	w.wg.Wait()
}

func (w *network) serve(l net.Listener, to *node, port int) {
	for {
		caller, err := l.Accept()
		if err != nil {
			return // closed
		}
		w.wg.Go(func() { w.connect(caller, to, port) })
	}
}

// connect joins a caller to a node for as long as both want.
func (w *network) connect(conn net.Conn, to *node, port int) {
	defer w.forget(conn)
	if !w.remember(conn) {
		return
	}
	caller := &heard{conn, bufio.NewReader(conn)}
	from := w.whoSends(caller)
	if from == nil {
		from = w.whoCalls(conn)
	}
	if from == nil {
		return // it has hung up
	}
	if !w.pass(from, to) {
		return
	}
	callee, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return // the node is gone, and so is the connection
	}
	defer w.forget(callee)
	if !w.remember(callee) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { w.pump(callee, caller, from, to) })
	both.Go(func() { w.pump(caller, callee, from, to) })
	both.Wait()
}

// pump brings bytes from one end to the other while there is a way.
func (w *network) pump(dst, src io.ReadWriteCloser, a, b *node) {
	defer func() {
		dst.Close()
		src.Close()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && w.pass(a, b) {
			_, writeErr := dst.Write(buf[:n])
			err = errors.Join(err, writeErr)
		}
		if err != nil {
			w.pass(a, b) // an end is news, too
			return
		}
	}
}

// pass waits until there is a way between two nodes; false: there will be none.
func (w *network) pass(a, b *node) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed && a != b && (w.cut[a] || w.cut[b]) {
		w.changed.Wait()
	}
	return !w.closed
}

func (w *network) remember(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.conns[c] = true
	return true
}

func (w *network) forget(c net.Conn) {
	c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

// heard is a connection whose first bytes were looked at.
type heard struct {
	net.Conn
	in *bufio.Reader
}

func (c *heard) Read(p []byte) (int, error) { return c.in.Read(p) }

// whoSends finds the node that a packet of gossip says it is from, nil if the
// connection brings no packet. Whoever sends one hangs up at once, so it may be
// too late to look whose socket it is.
func (w *network) whoSends(c *heard) *node {
	head, err := c.in.Peek(2)
	if err != nil || head[0] != 1 {
		return nil
	}
	if head, err = c.in.Peek(2 + int(head[1])); err != nil {
		return nil
	}
	host, _, err := net.SplitHostPort(string(head[2:]))
	if err != nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.nodes, func(n *node) bool { return n.host == host })
	if i < 0 {
		return nil
	}
	return w.nodes[i]
}

// whoCalls finds the node at the other end of a connection, nil if there is
// none any more: it looks whose socket has that port.
func (w *network) whoCalls(c net.Conn) *node {
	inode, err := socketInode(c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr))
	if err != nil {
		return nil
	}
	w.mu.Lock()
	nodes := w.nodes
	w.mu.Unlock()
	for _, n := range nodes {
		if n.holds(inode) {
			return n
		}
	}
	return nil
}

func (n *node) holds(inode string) bool {
	pid := n.pid.Load()
	if pid == 0 {
		return false
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, _ := os.ReadDir(dir) // it may have ended
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && target == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}

// socketInode finds the number of the socket between two addresses.
func socketInode(local, remote *net.TCPAddr) (string, error) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return "", err
	}
	from, to := procAddr(local), procAddr(remote)
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 9 && f[1] == from && f[2] == to {
			return f[9], nil
		}
	}
	return "", io.EOF
}

// procAddr is an address as /proc writes it, bytes of the host in reverse.
func procAddr(a *net.TCPAddr) string {
	ip := a.IP.To4()
	return fmt.Sprintf("%02X%02X%02X%02X:%s", ip[3], ip[2], ip[1], ip[0], strings.ToUpper(fmt.Sprintf("%04s", strconv.FormatInt(int64(a.Port), 16))))
}
