package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxAttempts    = 20               // of one request
	maxPause       = 10 * time.Second // between two attempts, whatever Retry-After says
	requestTimeout = 60 * time.Second
	maxFailures    = 100 // of one sender in a row; then the server does not want this load
)

// Sent is how sending a load went.
type Sent struct {
	Samples  int64 // in requests answered 2xx
	Requests int64 // answered 2xx
	Retries  int64 // after 429, 503, or no answer
	Errors   int64 // requests given up
	FirstErr string
	Wall     time.Duration
	OwnCPU   time.Duration // of the generator meanwhile
	P50, P99 time.Duration // of one request, retries included
}

// Send sends a load with its senders, each its requests in order, and returns
// when all are through.
func Send(ctx context.Context, l *Load, pushURL string) (*Sent, error) {
	total, took := &Sent{}, make([][]time.Duration, len(l.lanes))
	parts := make([]Sent, len(l.lanes))
	errs := make([]error, len(l.lanes))
	pace := newPace(len(l.lanes))
	cpu, start := ownCPU(), time.Now()
	var wg sync.WaitGroup
	for i := range l.lanes {
		wg.Go(func() {
			defer pace.leave(i)
			s := newSender(l, pushURL)
			s.enter = func(step int) { pace.enter(i, step) }
			defer s.client.CloseIdleConnections()
			errs[i] = s.run(ctx, l.lanes[i])
			parts[i], took[i] = s.sent, s.took
		})
	}
	wg.Wait()
	total.Wall, total.OwnCPU = time.Since(start), ownCPU()-cpu
	for i := range parts {
		if errs[i] != nil {
			return nil, fmt.Errorf("send load to %s: %w", pushURL, errs[i])
		}
		total.add(&parts[i])
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	total.P50, total.P99 = quantile(all, 0.5), quantile(all, 0.99)
	return total, nil
}

func (s *Sent) add(o *Sent) {
	s.Samples += o.Samples
	s.Requests += o.Requests
	s.Retries += o.Retries
	s.Errors += o.Errors
	if s.FirstErr == "" {
		s.FirstErr = o.FirstErr
	}
}

// sender sends one lane over one connection.
type sender struct {
	load   *Load
	url    string
	client *http.Client
	enter  func(step int) // waits for the other senders
	sent   Sent
	took   []time.Duration
}

func newSender(l *Load, url string) *sender {
	tr := &http.Transport{MaxIdleConnsPerHost: 1, DisableCompression: true, WriteBufferSize: 64 << 10}
	return &sender{load: l, url: url, client: &http.Client{Transport: tr, Timeout: requestTimeout}}
}

// run sends the lane. A request the server does not take is counted and left
// behind; the error is that of reading the load, of the context, or of a
// server that takes nothing.
func (s *sender) run(ctx context.Context, ln lane) error {
	f, err := os.Open(ln.path)
	if err != nil {
		return err
	}
	defer f.Close()
	var buf []byte
	s.took = make([]time.Duration, 0, len(ln.requests))
	failures := 0
	for i, r := range ln.requests {
		s.enter(i / ln.perStep)
		buf = slices.Grow(buf[:0], int(r.size))[:r.size]
		if _, err := f.ReadAt(buf, r.off); err != nil {
			return err
		}
		start := time.Now()
		err := s.send(ctx, r, buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.took = append(s.took, time.Since(start))
		if err != nil {
			s.sent.add(&Sent{Errors: 1, FirstErr: err.Error()})
			if failures++; failures == maxFailures {
				return fmt.Errorf("%d requests in a row failed: %w", failures, err)
			}
			continue
		}
		failures = 0
		s.sent.Samples += int64(r.samples)
		s.sent.Requests++
	}
	return nil
}

// send posts one body, again when the server says so or does not answer.
func (s *sender) send(ctx context.Context, r request, body []byte) error {
	for attempt := 1; ; attempt++ {
		pause, err := s.post(ctx, r, body)
		if err == nil || pause == 0 || attempt == maxAttempts {
			return err
		}
		s.sent.Retries++
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// post makes one attempt. With an error it says how long to wait before the
// next one; zero means that another would go the same way.
func (s *sender) post(ctx context.Context, r request, body []byte) (time.Duration, error) {
	url := strings.ReplaceAll(s.url, "{tenant}", strconv.Itoa(int(r.tenant)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	s.setHeaders(req.Header, s.load.TenantName(int(r.tenant)))
	resp, err := s.client.Do(req)
	if err != nil {
		return 100 * time.Millisecond, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return 100 * time.Millisecond, err
	}
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return 0, nil
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return retryAfter(resp.Header), statusError(resp, text)
	default:
		return 0, statusError(resp, text)
	}
}

func (s *sender) setHeaders(h http.Header, tenant string) {
	h.Set("Content-Encoding", "snappy")
	h.Set("User-Agent", "hearth-bench")
	h.Set("X-Scope-OrgID", tenant)
	if s.load.V2 {
		h.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		h.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
		return
	}
	h.Set("Content-Type", "application/x-protobuf")
	h.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
}

// retryAfter is the wait a server asks for, within reason. Only seconds are
// read: none of the servers measured here sends a date.
func retryAfter(h http.Header) time.Duration {
	secs, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || secs <= 0 {
		return 100 * time.Millisecond
	}
	return min(time.Duration(secs)*time.Second, maxPause)
}

func statusError(resp *http.Response, text []byte) error {
	return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
}

// ownCPU is the CPU time of this process so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}
