package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/snappy"
)

// noiseURL in the environment makes this program the noisy neighbour of the
// server at that URL, until its standard input ends. It says when it begins, and
// in the end how many writes and queries were answered.
const noiseURL = "HEARTH_BENCH_NOISE"

const (
	noisyWrites      = 512 // at once, most of 2,000 samples
	noisyQueries     = 400 // at once, a hundred times what is allowed
	noisyConnections = 2000
	noisyWriters     = 4
)

// expensive are queries of all that the noisy tenant has.
var expensive = []string{
	`sum by (pod) (rate({__name__=~".+"}[10m]))`,
	`topk(100, {__name__=~".+"} * on (pod, namespace) group_left () max by (pod, namespace) ({__name__=~".+"}))`,
	`count(count by (pod, path, le) ({__name__=~".+",pod=~".*a.*|.*b.*|.*c.*"}))`,
}

// makeNoise writes, asks and connects as fast as it can. It does not wait where
// it is told to.
func makeNoise(ctx context.Context, base string) {
	var writes, queries atomic.Int64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: noisyWrites + noisyQueries}, Timeout: time.Minute}
	var writers [noisyWriters]*noisyWriter
	for i := range writers {
		writers[i] = newNoisyWriter(i)
	}
	fmt.Println("ready")
	var wg sync.WaitGroup
	wg.Go(func() {
		flood(ctx, noisyWrites, func(n int) {
			if noisyPost(ctx, client, base+"/api/v1/push", "application/x-protobuf", writers[n%noisyWriters].next(n/noisyWriters)) {
				writes.Add(1)
			}
		})
	})
	wg.Go(func() {
		flood(ctx, noisyQueries, func(n int) {
			form := url.Values{
				"query": {expensive[n%len(expensive)]}, "step": {"5"},
				"start": {unix(time.Now().Add(-30 * time.Minute))}, "end": {unix(time.Now())},
			}
			if noisyPost(ctx, client, base+"/prometheus/api/v1/query_range", "application/x-www-form-urlencoded", []byte(form.Encode())) {
				queries.Add(1)
			}
		})
	})
	wg.Go(func() { noisyConnects(ctx, base) })
	wg.Wait()
	fmt.Println(writes.Load(), queries.Load())
}

// flood has so many calls of f at once.
func flood(ctx context.Context, atOnce int, f func(n int)) {
	slots := make(chan struct{}, atOnce)
	for n := 0; ctx.Err() == nil; n++ {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			f(n)
		}()
	}
	for range atOnce {
		slots <- struct{}{}
	}
}

// noisyWriter has series to send over and over.
type noisyWriter struct {
	mu     sync.Mutex
	bodies []*noisyBody
}

// noisyBody is encoded anew each second, and one that is refused whatever its time
// only once: who makes the noise is to take as little of the machine that he shares
// with the server as can be.
type noisyBody struct {
	*body
	refused    bool
	compressed []byte
	since      time.Time
}

// newNoisyWriter prepares what is sent: series that are there, some with a label
// that is far too long, and some that are new each time it starts.
func newNoisyWriter(sender int) *noisyWriter {
	huge := population(1, 0, 200)
	for i := range huge {
		huge[i].labels = append(huge[i].labels, label{name: "zz_huge", value: strings.Repeat("x", 64<<10)})
	}
	fresh := population(1, 0, 2000)
	for i := range fresh {
		fresh[i].labels = append(fresh[i].labels, label{name: "zz_run", value: fmt.Sprint(sender, time.Now().UnixNano())})
	}
	fine := encodeV1(population(1, 0, 2000))
	w := &noisyWriter{bodies: []*noisyBody{{body: fine}, {body: fine}, {body: encodeV1(huge), refused: true}, {body: encodeV1(fresh)}}}
	for n := range w.bodies {
		w.next(n)
	}
	return w
}

func (w *noisyWriter) next(n int) (compressed []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.bodies[n%len(w.bodies)]
	now := time.Now()
	if b.compressed != nil && (b.refused || now.Sub(b.since) < time.Second) {
		return b.compressed
	}
	for i := range b.at {
		b.set(i, float64(n), now.UnixMilli())
	}
	b.since, b.compressed = now, snappy.Encode(nil, b.raw)
	return b.compressed
}

func noisyPost(ctx context.Context, client *http.Client, to, contentType string, body []byte) (answered bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return false
	}
	req.Header.Set("X-Scope-OrgID", noisyTenant)
	req.Header.Set("Content-Type", contentType)
	res, err := client.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, res.Body) // whatever it is
	_ = res.Body.Close()
	return true
}

// noisyConnects opens connections, sends half a request on each, and opens them
// again where they are closed.
func noisyConnects(ctx context.Context, base string) {
	addr := strings.TrimPrefix(base, "http://")
	all := make([]net.Conn, noisyConnections)
	defer func() {
		for _, c := range all {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	half := fmt.Sprintf("POST /api/v1/push HTTP/1.1\r\nHost: h\r\nX-Scope-OrgID: %s\r\nContent-Length: 1000000\r\n\r\n", noisyTenant)
	for n := 0; ctx.Err() == nil; n = (n + 1) % len(all) {
		if all[n] == nil {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", addr)
			if err != nil {
				continue
			}
			_, _ = c.Write([]byte(half)) // what is refused is refused
			all[n] = c
		} else if _, err := all[n].Write([]byte("x")); err != nil {
			_ = all[n].Close()
			all[n] = nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Millisecond):
		}
	}
}

// noiseMain is main of the noisy neighbour. It never has more than one processor.
func noiseMain(base string) {
	runtime.GOMAXPROCS(1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until whoever has started this is through
		cancel()
	}()
	makeNoise(ctx, base)
}
