package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang/snappy"
)

// quietWork in the environment makes this program the quiet tenant of the server
// that it says, in JSON. It writes its latencies to its output, in JSON.
const quietWork = "HEARTH_BENCH_QUIET"

const (
	writePause = 20 * time.Millisecond
	queryPause = 100 * time.Millisecond
)

// quietQuery is about the minute that the quiet tenant has written before it is
// measured, so that it has as much to do at the end as in the beginning.
const quietQuery = `histogram_quantile(0.99, sum by (le, app) (rate(http_request_duration_seconds_bucket[1m])))`

// work is what the quiet tenant does.
type work struct {
	Push, Query        string // URLs
	Series, PerRequest int
	Length             time.Duration
}

// latencies are those of the quiet tenant.
type latencies struct{ Writes, Queries []time.Duration }

func (l *latencies) add(more latencies) {
	l.Writes, l.Queries = append(l.Writes, more.Writes...), append(l.Queries, more.Queries...)
}

// first is what before a command has it run before all others; its threads take
// turns, as one that waits in a loop for another must not keep it from running.
// Only an administrator may do that: for anybody else it is nothing, and the reason.
var first = sync.OnceValues(func() ([]string, error) {
	prefix := []string{"chrt", "--rr", "1"}
	if out, err := exec.Command(prefix[0], append(prefix[1:], "true")...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w %s", strings.Join(prefix, " "), err, out)
	}
	return prefix, nil
})

// quiet runs the quiet tenant in a process of its own, which has a processor
// whenever it wants one, where that is allowed: in life it has its own machine.
func (t *trial) quiet(ctx context.Context, length time.Duration, to *latencies) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	prefix, _ := first()
	args := slices.Concat(prefix, []string{exe})
	do, err := json.Marshal(work{t.Push, t.Query, t.load.Series, t.load.PerRequest, length})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), quietWork+"="+string(do))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("the quiet tenant: %w", err)
	}
	var more latencies
	if err := json.Unmarshal(out, &more); err != nil {
		return err
	}
	to.add(more)
	return nil
}

// quietMain is main of the quiet tenant.
func quietMain(text string) error {
	var do work
	if err := json.Unmarshal([]byte(text), &do); err != nil {
		return err
	}
	took, err := do.run(context.Background())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

// run writes and asks at a pace that does not follow the answers.
func (do *work) run(ctx context.Context) (took latencies, err error) {
	all := population(0, 0, do.Series)
	var bodies []*body
	for from := 0; from < len(all); from += do.PerRequest {
		bodies = append(bodies, encodeV1(all[from:min(len(all), from+do.PerRequest)]))
	}
	client := newClient()
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 100 // as Prometheus has them
	write := func(n int) error {
		b := bodies[n%len(bodies)]
		now := time.Now().UnixMilli()
		for i := range b.at {
			b.set(i, float64(n), now)
		}
		return quietPost(ctx, client, do.Push, "application/x-protobuf", snappy.Encode(nil, b.raw))
	}
	ask := func(int) error {
		form := url.Values{"query": {quietQuery}}
		return quietPost(ctx, client, do.Query+"/api/v1/query", "application/x-www-form-urlencoded", []byte(form.Encode()))
	}
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() { took.Writes, errs[0] = paced(do.Length, writePause, write) })
	wg.Go(func() { took.Queries, errs[1] = paced(do.Length, queryPause, ask) })
	wg.Wait()
	return took, errors.Join(errs[:]...)
}

// paced calls f after every pause, whether those before have ended or not, and
// returns how long each took.
func paced(length, pause time.Duration, f func(n int) error) ([]time.Duration, error) {
	took := make([]time.Duration, max(1, int(length/pause)))
	errs := make([]error, len(took))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	var wg sync.WaitGroup
	for n := range took {
		<-tick.C
		wg.Go(func() {
			began := time.Now()
			errs[n] = f(n)
			took[n] = time.Since(began)
		})
	}
	wg.Wait()
	return took, errors.Join(errs...)
}

func quietPost(ctx context.Context, client *http.Client, to, contentType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Scope-OrgID", quietTenant)
	req.Header.Set("Content-Type", contentType)
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("the quiet tenant got %s: %.300s", res.Status, text)
	}
	return err
}
