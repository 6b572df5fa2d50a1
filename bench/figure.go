package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Bench is one run: all figures asked for, on all targets.
type Bench struct {
	Targets []*Target
	Figures []string      // names, in order; see figures
	Scale   float64       // of the numbers of series and tenants
	Runs    int           // of each query; the median counts
	Settle  time.Duration // after a load, before memory is read
	Wait    time.Duration // at most, until what was acknowledged can be queried
	V2      bool          // remote write 2.0
	Profile string        // folder for CPU profiles; "" for none
	Work    string        // folder for loads and servers
	Out     io.Writer     // says what happens

	report *Report
}

// figure is one sub-run. It prepares a load, puts it on each target alone and
// adds what it measured to the report.
type figure struct {
	name, about string
	run         func(context.Context, *Bench) error
}

// figures in the order they run.
var figures = []figure{
	{"write", "CPU, samples/s and RAM per series: 100,000 series of one tenant, 60 samples", runWrite},
	{"cluster", "the same through a distributor to three ingesters that hold a copy each, all counted", runCluster},
	{"tenants", "RAM of a small tenant: 500 and 10,000 tenants of 50 series", runTenants},
	{"disk", "bytes per sample in the bucket: 10,000 series, 2 hours", runDisk},
	{"restart", "time until ready again after SIGKILL: 1,000,000 series in the log", runRestart},
	{"neighbours", "latencies of a tenant beside one that is far above its limits, as a multiple of those alone", runNeighbours},
	{"query", "latencies of 23 queries: 50,000 series, 160 samples", runQuery},
}

// Run runs the figures. What fails on one target is in the report and does
// not stop the others; the error says that something failed.
func (b *Bench) Run(ctx context.Context) (*Report, error) {
	b.report = newReport(b)
	var failed error
	for _, f := range figures {
		if !b.wants(f.name) {
			continue
		}
		b.say("%s: %s", f.name, f.about)
		if err := f.run(ctx, b); err != nil {
			failed = errors.Join(failed, fmt.Errorf("figure %s: %w", f.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return b.report, failed
}

func (b *Bench) wants(name string) bool {
	return slices.Contains(b.Figures, name)
}

func (b *Bench) say(format string, args ...any) {
	fmt.Fprintf(b.Out, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// scaled is n at the scale of this run, and not less than atLeast.
func (b *Bench) scaled(n, atLeast int) int {
	return max(atLeast, int(math.Round(float64(n)*b.Scale)))
}

// spec is what all figures write alike; end is now.
func (b *Bench) spec(series, samples int) Spec {
	return Spec{
		Series: series, Samples: samples, Step: 15 * time.Second, End: time.Now(),
		PerRequest: 2000, Senders: 4, V2: b.V2,
	}
}

// trial is one target under one load.
type trial struct {
	*Bench
	*Server

	load   *Load
	figure string
	result *Result
}

// part is one load of a figure, and what to do with each target under it.
type part struct {
	figure string
	spec   Spec
	can    func(*Target) bool // leave out the targets that cannot
	do     func(context.Context, *trial) error
}

// each prepares the load and does the part on each target alone, the target
// started just before and stopped just after.
func (b *Bench) each(ctx context.Context, p part) error {
	if !slices.ContainsFunc(b.Targets, p.can) {
		b.say("  no target can")
		return nil
	}
	load, err := Prepare(ctx, p.spec, b.Work)
	if err != nil {
		return err
	}
	b.say("  load of %d series, %d samples: %.0f bytes of labels a series, %.1f bytes sent a sample",
		load.AllSeries(), load.Total(), float64(load.LabelBytes)/float64(load.AllSeries()), float64(load.Bytes)/float64(load.Total()))
	var failed error
	for i, t := range b.Targets {
		if !p.can(t) || ctx.Err() != nil {
			continue
		}
		if err := b.one(ctx, p, load, i); err != nil {
			b.report.Results[i].note("%s: %v", p.figure, err)
			failed = errors.Join(failed, fmt.Errorf("%s: %w", t.Name, err))
		}
	}
	return errors.Join(failed, load.Remove())
}

// one does the part on target i.
func (b *Bench) one(ctx context.Context, p part, load *Load, i int) (err error) {
	b.say("  %s", b.Targets[i].Name)
	srv, err := StartServer(ctx, b.Targets[i], b.Work)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	result := &b.report.Results[i]
	if result.Version == "" {
		result.Version = srv.version(ctx)
	}
	return p.do(ctx, &trial{Bench: b, Server: srv, load: load, figure: p.figure, result: result})
}

func anyTarget(*Target) bool { return true }

func (t *trial) add(name, unit string, value float64) {
	t.result.Measures = append(t.result.Measures, Measure{Figure: t.figure, Name: name, Unit: unit, Value: value})
}

// detail adds a measure that explains the one added before.
func (t *trial) detail(name, unit string, value float64) {
	t.result.Measures = append(t.result.Measures, Measure{Figure: t.figure, Name: name, Unit: unit, Value: value, Detail: true})
}

// loadTimeout bounds one load; the slowest server known takes a minute.
const loadTimeout = 15 * time.Minute

// send puts the load on the server and notes what went wrong.
func (t *trial) send(ctx context.Context) (*Sent, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	sent, err := Send(ctx, t.load, t.Push)
	if err != nil {
		return nil, err
	}
	if sent.Retries > 0 {
		t.result.note("%s: %d requests were sent again when the server asked for it or did not answer", t.figure, sent.Retries)
	}
	if sent.Errors > 0 {
		t.result.note("%s: %d of %d requests FAILED, first with: %s", t.figure, sent.Errors, sent.Errors+sent.Requests, sent.FirstErr)
	}
	if sent.Samples == 0 {
		return nil, errors.New("the server took no sample")
	}
	return sent, nil
}

// settled waits for the memory to settle and returns it, in bytes.
func (t *trial) settled(ctx context.Context) (float64, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(t.Settle):
	}
	n, err := anonymous(t.PID)
	return float64(n), err
}

// watchPeak follows the memory of a process until stop is called, which
// returns the highest seen.
func watchPeak(pid int) (stop func() float64) {
	var (
		peak int64
		done = make(chan struct{})
		wg   sync.WaitGroup
	)
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			if n, err := anonymous(pid); err == nil {
				peak = max(peak, n)
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() float64 {
		close(done)
		wg.Wait()
		return float64(peak)
	}
}

// profileSeconds is long enough for a profile of a load and shorter than most.
const profileSeconds = 10

// profile starts a CPU profile of the server, if one is asked for; the
// returned function waits for it and writes it.
func (t *trial) profile(ctx context.Context, of string) (wait func()) {
	if t.Profile == "" {
		return func() {}
	}
	done := make(chan error, 1)
	go func() {
		status, body, err := t.get(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", t.URL, profileSeconds), "")
		if err == nil && status != 200 {
			err = fmt.Errorf("status %d", status)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(t.Profile, t.Name+"-"+of+".pprof"), body, 0o644)
		}
		done <- err
	}()
	return func() {
		if err := <-done; err != nil {
			t.result.note("%s: no profile: %v", t.figure, err)
		}
	}
}
