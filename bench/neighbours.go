package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	quietTenant = "bench" // that of the load
	noisyTenant = "noisy"

	phases = 3 // of each kind, in turn
)

// noisyLimits are a hundredth of what the noisy tenant sends.
const noisyLimits = `{"id": "noisy", "limits": {
	"ingestion_rate": 5000, "ingestion_burst_size": 20000, "request_rate": 50, "request_burst_size": 100,
	"max_series": 20000, "max_concurrent_queries": 4}}`

// runNeighbours measures what a tenant notices of another one that is far above
// all of its limits: latencies alone, beside the noise, and while the same noise
// is made at another server, in turns, so that whatever else the machine does is
// in all of them. The last tells what comes from the machine: who makes the noise
// has processors of his own in life, as the other server has.
func runNeighbours(ctx context.Context, b *Bench) error {
	spec := b.spec(b.scaled(2000, 200), 60)
	spec.PerRequest = 100
	return b.each(ctx, part{"neighbours", spec, limitsByAPI, neighboursTrial})
}

// limitsByAPI says whether limits can be set, at a second server as well.
func limitsByAPI(t *Target) bool { return t.Multi && t.Name == "hearth" && canStart(t) }

// last before a command has it give way to all others. The idle class would not:
// as long as a thread of it waits for a processor, one that has just been woken
// there does not interrupt the one that runs (Linux 6.18).
var last = []string{"nice", "-n", "19"}

func neighboursTrial(ctx context.Context, t *trial) error {
	if _, err := t.send(ctx); err != nil {
		return err
	}
	elsewhere, err := t.elsewhere(ctx)
	if err != nil {
		return err
	}
	defer elsewhere.Close() //nolint:errcheck // what it was for has been measured
	for _, s := range []*Server{t.Server, elsewhere} {
		if err := t.fillNoisy(ctx, s); err != nil {
			return err
		}
	}
	if _, err := first(); err != nil {
		t.result.note("neighbours: the quiet tenant has to wait for processors, which is in its latencies: %s", err)
	}
	length := time.Duration(t.scaled(30, 1)) * time.Second
	var before, alone, apart, beside latencies
	var writes, queries int
	if err := t.quiet(ctx, 2*length, &before); err != nil {
		return err
	}
	stopPeak := watchPeak(t.PID)
	for range phases {
		if err := t.quiet(ctx, length, &alone); err != nil {
			return err
		}
		if _, _, err := t.besideNoise(ctx, elsewhere, length, &apart); err != nil {
			return err
		}
		w, q, err := t.besideNoise(ctx, t.Server, length, &beside)
		if err != nil {
			return err
		}
		writes, queries = writes+w, queries+q
	}
	atFirst := firstSecond(beside.Writes, writePause)
	t.compare("write", alone.Writes, apart.Writes, beside.Writes)
	t.compare("query", alone.Queries, apart.Queries, beside.Queries)
	t.detail("p90 of a write in the first second of the noise", "ms", quantile(atFirst, 0.9).Seconds()*1e3)
	seconds := phases * length.Seconds()
	t.detail("writes of the noise", "1/s", float64(writes)/seconds)
	t.detail("queries of the noise", "1/s", float64(queries)/seconds)
	t.detail("peak RAM", "MiB", stopPeak()/(1<<20))
	return nil
}

// firstSecond returns, sorted, what began in the first second of each phase, of
// what began after every pause.
func firstSecond(all []time.Duration, pause time.Duration) []time.Duration {
	var out []time.Duration
	for phase := range slices.Chunk(all, len(all)/phases) {
		out = append(out, phase[:min(len(phase), int(time.Second/pause))]...)
	}
	slices.Sort(out)
	return out
}

// elsewhere starts another server, which gives way to all others.
func (t *trial) elsewhere(ctx context.Context) (*Server, error) {
	target := *t.original
	target.Cmd = slices.Concat(last, target.Cmd)
	return StartServer(ctx, &target, t.Work)
}

// besideNoise is quiet while the noisy tenant is at a server. It returns how much
// of the noise was answered.
func (t *trial) besideNoise(ctx context.Context, at *Server, length time.Duration, to *latencies) (writes, queries int, err error) {
	hush, err := startNoise(ctx, at.URL)
	if err != nil {
		return 0, 0, err
	}
	err = t.quiet(ctx, length, to)
	writes, queries, hushErr := hush()
	return writes, queries, errors.Join(err, hushErr)
}

// fillNoisy makes the noisy tenant at a server, with data to ask for that it has
// sent when it was still within its limits.
func (t *trial) fillNoisy(ctx context.Context, at *Server) error {
	spec := t.load.Spec
	spec.Name, spec.Series, spec.Samples, spec.PerRequest = noisyTenant, t.scaled(10_000, 500), 60, 2000
	dir, err := os.MkdirTemp(t.Work, "noisy-")
	if err != nil {
		return err
	}
	load, err := Prepare(ctx, spec, dir)
	if err != nil {
		return err
	}
	filler := *t
	filler.Server, filler.load = at, load
	if _, err := filler.send(ctx); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.URL+"/admin/v1/tenants", strings.NewReader(noisyLimits))
	if err != nil {
		return err
	}
	res, err := t.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		return fmt.Errorf("limit the noisy tenant: %s: %s", res.Status, text)
	}
	return os.RemoveAll(dir)
}

// startNoise starts the noise, which hush ends: a process of its own, which gives
// way to all others. In life it has its own machine.
func startNoise(ctx context.Context, base string) (hush func() (writes, queries int, err error), err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, last[0], append(slices.Clone(last[1:]), exe)...)
	cmd.Env = append(os.Environ(), noiseURL+"="+base)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	out := bufio.NewReader(stdout)
	if _, err := out.ReadString('\n'); err != nil {
		return nil, errors.Join(err, in.Close(), cmd.Wait())
	}
	return func() (writes, queries int, err error) {
		err = in.Close()
		_, scanErr := fmt.Fscan(out, &writes, &queries)
		return writes, queries, errors.Join(err, scanErr, cmd.Wait())
	}, nil
}

// compare adds how much longer the slowest hundredth takes beside the noise.
func (t *trial) compare(what string, alone, apart, beside []time.Duration) {
	for _, l := range [][]time.Duration{alone, apart, beside} {
		slices.Sort(l)
	}
	slowest := quantile(beside, 0.99).Seconds()
	t.add("p99 of a "+what+" beside noise, as a multiple of that alone", "", slowest/quantile(alone, 0.99).Seconds())
	t.add("p99 of a "+what+" beside noise, as a multiple of that with the noise elsewhere", "", slowest/quantile(apart, 0.99).Seconds())
	for _, q := range []float64{0.5, 0.9, 0.99} {
		t.detail(fmt.Sprintf("p%g of a %s alone", 100*q, what), "ms", quantile(alone, q).Seconds()*1e3)
		t.detail(fmt.Sprintf("p%g of a %s, noise elsewhere", 100*q, what), "ms", quantile(apart, q).Seconds()*1e3)
		t.detail(fmt.Sprintf("p%g of a %s beside noise", 100*q, what), "ms", quantile(beside, q).Seconds()*1e3)
	}
}
