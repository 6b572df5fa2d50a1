package buckettest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Proxy stands in front of an S3 server. It passes requests on until it is told
// to do something else to them. Its methods are for the test's goroutine.
type Proxy struct {
	// Addr is the host and port to use in the place of the server's.
	Addr string

	t      testing.TB
	target string
	client *http.Transport
	door   *door
	server *httptest.Server // nil while away

	mu     sync.Mutex
	next   func(*http.Request) Fault
	met    int
	broken chan struct{} // closed when all connections are broken off
}

// StartProxy starts a proxy for the server at target, which ends with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	d, err := newDoor()
	if err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	p := &Proxy{Addr: d.addr(), t: t, target: target, client: &http.Transport{DisableCompression: true}, door: d, broken: make(chan struct{})}
	p.Always(Pass)
	p.Return()
	t.Cleanup(func() {
		p.close()
		_ = p.door.free()
		p.client.CloseIdleConnections()
	})
	return p
}

// Plan says what happens to each request from now on. Requests wait for one
// another in next.
func (p *Proxy) Plan(next func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
}

// Always plans the same fault for all requests.
func (p *Proxy) Always(f Fault) {
	p.Plan(func(*http.Request) Fault { return f })
}

// First plans a fault for the next n requests of a kind.
func (p *Proxy) First(n int, f Fault, match func(*http.Request) bool) {
	p.Plan(func(r *http.Request) Fault {
		if n == 0 || !match(r) {
			return Pass
		}
		n--
		return f
	})
}

// Met counts the requests so far to which something was done.
func (p *Proxy) Met() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}

// Leave breaks all connections off, and has new ones refused.
func (p *Proxy) Leave() {
	p.t.Helper()
	p.close()
	if err := p.door.shut(); err != nil {
		p.t.Fatalf("leave: %v", err)
	}
}

// Return undoes Leave.
func (p *Proxy) Return() {
	p.t.Helper()
	l, err := p.door.open()
	if err != nil {
		p.t.Fatalf("return: %v", err)
	}
	p.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: p}}
	p.server.Start()
}

// Break breaks all connections off, also those on which a request hangs.
func (p *Proxy) Break() {
	p.mu.Lock()
	close(p.broken)
	p.broken = make(chan struct{})
	p.mu.Unlock()
	p.server.CloseClientConnections()
}

func (p *Proxy) close() {
	if p.server != nil {
		p.Break()
		p.server.Close()
		p.server = nil
	}
}

// hit is a fault that a request has met.
type hit struct {
	Fault
	broken <-chan struct{}
}

func (p *Proxy) hit(r *http.Request) hit {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.next(r)
	if f != Pass {
		p.met++
	}
	return hit{f, p.broken}
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := p.hit(r)
	if h.Fault == EarlyRefusal {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if answered := h.instead(w, r); answered {
		return
	}
	a, err := p.forward(r, body, h.Fault)
	if err != nil {
		reset(w)
		return
	}
	h.reply(w, r, a)
}

// hang waits until the connection is broken off, by whom ever. The request's
// context does not always tell: not if the client took what it got for a whole
// answer, and has sent its next request.
func (h hit) hang(r *http.Request) {
	select {
	case <-h.broken:
	case <-r.Context().Done():
	}
}

// instead does what a fault does before the server is asked, and says whether
// that is all.
func (h hit) instead(w http.ResponseWriter, r *http.Request) bool {
	switch h.Fault {
	case Refuse:
		w.WriteHeader(http.StatusInternalServerError)
	case BadGateway:
		http.Error(w, "the upstream is in trouble", http.StatusBadGateway)
	case SlowDown:
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
	case ResetBefore:
		reset(w)
	case Hang:
		h.hang(r)
	case Slow:
		select {
		case <-time.After(time.Second):
			return false
		case <-r.Context().Done():
		}
	default:
		return false
	}
	return true
}

// answer is what the server says.
type answer struct {
	status  int
	header  http.Header
	content []byte
}

func (p *Proxy) forward(r *http.Request, body []byte, f Fault) (answer, error) {
	out := r.Clone(context.Background())
	out.URL.Scheme, out.URL.Host = "http", p.target
	out.RequestURI = ""
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.ContentLength = int64(len(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	if f == IgnoreRange {
		out.Header.Del("Range")
	}
	res, err := p.client.RoundTrip(out)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, content}, err
}

func (h hit) reply(w http.ResponseWriter, r *http.Request, a answer) {
	switch h.Fault {
	case LoseAnswer:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case ResetAfter:
		reset(w)
		return
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if h.Fault == ShortLength && r.Method == http.MethodGet {
		a.content = a.content[:len(a.content)/2]
		w.Header().Set("Content-Length", fmt.Sprint(len(a.content)))
	}
	w.WriteHeader(a.status)
	switch h.Fault {
	case Truncate, TruncateEnd, HangInBody:
		_, _ = w.Write(a.content[:len(a.content)/2])
		_ = http.NewResponseController(w).Flush()
		if h.Fault == HangInBody {
			h.hang(r)
		}
		if h.Fault == Truncate {
			reset(w)
		}
		panic(http.ErrAbortHandler)
	case Dribble:
		for piece := range pieces(a.content, 20) {
			_, _ = w.Write(piece)
			_ = http.NewResponseController(w).Flush()
		}
	default:
		_, _ = w.Write(a.content)
	}
}

func pieces(content []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for i := range n {
			if !yield(content[i*len(content)/n : (i+1)*len(content)/n]) {
				return
			}
		}
	}
}

// reset breaks the connection off as a crash does.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
