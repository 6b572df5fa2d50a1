package bucket

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
)

// fault is what a proxy does to a request.
type fault string

const (
	pass         fault = "pass"          // nothing
	refuse       fault = "refuse"        // 500 without asking the server
	slowDown     fault = "slow down"     // 503 as S3 says it
	loseAnswer   fault = "lose answer"   // the server acts, the client gets 500
	resetBefore  fault = "reset before"  // the connection breaks, nothing happened
	resetAfter   fault = "reset after"   // the connection breaks when the server has acted
	truncate     fault = "truncate"      // half of the answer's body, then a reset
	truncateEnd  fault = "truncate end"  // half of the answer's body, then an orderly end
	hang         fault = "hang"          // no answer ever
	hangInBody   fault = "hang in body"  // half of the answer's body, then nothing ever
	dribble      fault = "dribble"       // the answer in small pieces
	shortLength  fault = "short length"  // half of the answer's body, and a length that says so
	ignoreRange  fault = "ignore range"  // the whole object whatever was asked
	badGateway   fault = "bad gateway"   // 502 with a page of text
	earlyRefusal fault = "early refusal" // 503 before the body was read
)

var passing = []fault{refuse, slowDown, loseAnswer, resetBefore, resetAfter, truncate, truncateEnd, hang, hangInBody, badGateway, earlyRefusal}

// faultyProxy stands in front of the S3 server.
type faultyProxy struct {
	target string
	client *http.Transport
	gone   chan struct{} // closed at the end, so that what hangs ends

	mu   sync.Mutex
	next func(*http.Request) fault
}

func startFaultyProxy(t *testing.T, target string) (*faultyProxy, string) {
	t.Helper()
	p := &faultyProxy{target: target, client: &http.Transport{DisableCompression: true}, gone: make(chan struct{})}
	p.plan(func(*http.Request) fault { return pass })
	server := httptest.NewServer(p)
	t.Cleanup(func() {
		close(p.gone)
		server.CloseClientConnections()
		server.Close()
		p.client.CloseIdleConnections()
	})
	return p, server.Listener.Addr().String()
}

// plan says what happens to each request from now on.
func (p *faultyProxy) plan(next func(*http.Request) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
}

// first has a fault for the next n requests of a kind.
func (p *faultyProxy) first(n int, f fault, match func(*http.Request) bool) {
	p.plan(func(r *http.Request) fault {
		if n == 0 || !match(r) {
			return pass
		}
		n--
		return f
	})
}

func (p *faultyProxy) fault(r *http.Request) fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next(r)
}

func (p *faultyProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := p.fault(r)
	if f == earlyRefusal {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch f {
	case refuse:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case badGateway:
		http.Error(w, "the upstream is in trouble", http.StatusBadGateway)
		return
	case slowDown:
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
		return
	case resetBefore:
		reset(w)
		return
	case hang:
		p.wait(r)
		return
	}
	answer, content, err := p.forward(r, body, f)
	if err != nil {
		reset(w)
		return
	}
	p.reply(w, r, f, answer, content)
}

func (p *faultyProxy) forward(r *http.Request, body []byte, f fault) (*http.Response, []byte, error) {
	out := r.Clone(context.Background())
	out.URL.Scheme, out.URL.Host = "http", p.target
	out.RequestURI = ""
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.ContentLength = int64(len(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	if f == ignoreRange {
		out.Header.Del("Range")
	}
	answer, err := p.client.RoundTrip(out)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer, content, err
}

func (p *faultyProxy) reply(w http.ResponseWriter, r *http.Request, f fault, answer *http.Response, content []byte) {
	switch f {
	case loseAnswer:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case resetAfter:
		reset(w)
		return
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	if f == shortLength && r.Method == http.MethodGet {
		content = content[:len(content)/2]
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	}
	w.WriteHeader(answer.StatusCode)
	switch f {
	case truncate, truncateEnd, hangInBody:
		_, _ = w.Write(content[:len(content)/2])
		_ = http.NewResponseController(w).Flush()
		if f == hangInBody {
			p.wait(r)
		}
		if f == truncate {
			reset(w)
		}
		panic(http.ErrAbortHandler)
	case dribble:
		for piece := range pieces(content, 20) {
			_, _ = w.Write(piece)
			_ = http.NewResponseController(w).Flush()
		}
	default:
		_, _ = w.Write(content)
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

func (p *faultyProxy) wait(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-p.gone:
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
