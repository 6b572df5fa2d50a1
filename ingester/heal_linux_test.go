package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// inChild runs the rest of a test as a process of its own, which may do to
// itself what others would suffer from, and end as a crash does. It says
// whether this is it.
func inChild(t *testing.T, dir string) bool {
	t.Helper()
	if os.Getenv(childDir) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	return false
}

// limitFiles has writes fail that would make a file longer.
func limitFiles(t *testing.T, bytes uint64) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var l syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l))
	l.Cur = min(bytes, l.Max)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l))
}

// pusher pushes random samples, and knows which were acknowledged.
type pusher struct {
	n    *node
	id   tenant.ID
	name string
	step int64 // of time, ms; negative: out of order

	at      int64
	acked   atomic.Int64    // requests
	sent    map[string]bool // "series t:v"; true: acknowledged
	refused int
}

const seriesOfPusher = 600

func newPusher(n *node, id tenant.ID, name string, step int64) *pusher {
	return &pusher{n: n, id: id, name: name, step: step, at: base(), sent: map[string]bool{}}
}

// push sends one request, again and again until it is acknowledged, or give up
// says so.
func (p *pusher) push(giveUp func() bool) {
	p.at += p.step
	var ts []prompb.TimeSeries
	var keys []string
	for s := range seriesOfPusher {
		sample := at(p.at, rand.Float64())
		ts = append(ts, series(fmt.Sprintf(`%s{s="%d"}`, p.name, s), sample))
		keys = append(keys, fmt.Sprintf(`{__name__=%q, s="%d"} %d:%g`, p.name, s, sample.Timestamp, sample.Value))
		p.sent[keys[s]] = false
	}
	for !giveUp() {
		got, err := p.n.Push(context.Background(), p.id, request(p.n.t, p.id, ts...))
		if err == nil {
			require.Equal(p.n.t, seriesOfPusher, got.Samples, "%s at %d", p.name, p.at)
			for _, k := range keys {
				p.sent[k] = true
			}
			p.acked.Add(1)
			return
		}
		var ue *wire.UserError
		require.ErrorAs(p.n.t, err, &ue)
		require.Equal(p.n.t, wire.Unavailable, ue.Kind, "%s", err)
		require.Positive(p.n.t, ue.RetryAfter)
		p.refused++
		<-time.After(5 * time.Millisecond)
	}
}

// check compares what is stored with what was sent.
func (p *pusher) check(when string) {
	p.n.t.Helper()
	have := map[string]bool{}
	for _, line := range p.n.read(p.id, labels.MustNewMatcher(labels.MatchEqual, "__name__", p.name)) {
		name, samples, _ := strings.Cut(line, "} ")
		for sample := range strings.FieldsSeq(samples) {
			key := name + "} " + sample
			require.False(p.n.t, have[key], "twice %s: %s", when, key)
			have[key] = true
		}
	}
	acked, lost := 0, 0
	for k, ok := range p.sent {
		if ok {
			acked++
			if !have[k] {
				lost++
			}
		}
		delete(have, k)
	}
	require.Zero(p.n.t, lost, "%s: %s: of %d acknowledged samples were lost", when, p.name, acked)
	require.Empty(p.n.t, have, "%s: never sent", when)
	p.n.t.Logf("%s: %s has all %d samples, %d tries were refused", when, p.name, acked, p.refused)
}

func pushers(n *node) []*pusher {
	return []*pusher{
		newPusher(n, "pooled", "in_order", 1000),
		newPusher(n, "own", "in_order", 1000),
		newPusher(n, "pooled", "late", -1000),
		newPusher(n, "own", "late", -1000),
	}
}

func never() bool { return false }

// A log that cannot be written loses nothing that was acknowledged: neither
// what was before the failure, nor what came after it.
func TestLogThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if !inChild(t, dir) {
		return
	}
	n := newNode(t).limit("own", func(l *tenant.Limits) { l.OwnHead = true })
	n.start()
	limit := uint64(100_000) // in the middle of a page
	limitFiles(t, limit)
	ps := pushers(n)
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			for range 30 { // fewer than fill a chunk
				p.push(never)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	hurt := func(h *head) bool { return h.hurt.Load() }
	for pushing := true; pushing; {
		select {
		case <-done:
			pushing = false
		case <-time.After(300 * time.Millisecond):
			if slices.ContainsFunc(n.heads(), hurt) {
				limit += 100_000
				limitFiles(t, limit)
			}
		}
	}
	for _, p := range ps {
		require.Positive(t, p.refused, "the log of %s was to fail", p.name)
		p.check("after healing")
	}
	require.Equal(t, int64(4*seriesOfPusher), n.series.Load())
	require.Equal(t, int64(2*seriesOfPusher), n.member("own").series.Load())
	require.InDelta(t, 2*seriesOfPusher, testutil.ToFloat64(n.metrics.series.WithLabelValues("own")), 0)
	n.crash()
	for _, p := range ps {
		p.check("after a crash")
	}
	n.restart()
	for _, p := range ps {
		p.check("after a restart")
	}
}

// tmpfs mounts a small disk.
func tmpfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=200m"); err != nil {
		t.Skipf("a small disk cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill takes the room on a disk but for so many bytes.
func fill(t *testing.T, dir string, but int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	defer f.Close()
	free, ok := freeDisk(dir)
	require.True(t, ok)
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, free-but); err != nil {
		require.ErrorIs(t, err, syscall.ENOSPC)
	}
	page := make([]byte, 4096)
	for but == 0 && err == nil {
		_, err = f.Write(page)
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.Remove(filepath.Join(dir, "filler")))
}

// A disk that fills up while many write: nobody's acknowledged samples are
// lost, queries are answered, and it goes on by itself when there is room.
func TestFullDisk(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		dir = tmpfs(t)
	}
	if !inChild(t, dir) {
		return
	}
	n := newNode(t).limit("own", func(l *tenant.Limits) { l.OwnHead = true })
	n.dir = filepath.Join(dir, "data")
	ps := pushers(n)
	n.start()
	fillMeanwhile(t, dir, n, ps)
	for _, p := range ps {
		p.check("while the disk is full")
	}
	empty(t, dir)
	for _, p := range ps {
		p.push(never)
		p.check("when there is room again")
	}
	fillMeanwhile(t, dir, n, ps)
	i := n.restartFull()
	require.Eventually(t, func() bool { return i.WaitsFor() != "" }, time.Minute, 10*time.Millisecond)
	require.Equal(t, services.Starting, i.State())
	empty(t, dir)
	require.NoError(t, i.AwaitRunning(context.Background()))
	for _, p := range ps {
		p.check("after a restart on a full disk")
		p.push(never)
		p.check("and a push")
	}
}

// fillMeanwhile fills the disk while all push, and waits until nobody can.
func fillMeanwhile(t *testing.T, dir string, n *node, ps []*pusher) {
	t.Helper()
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, p := range ps {
		p.acked.Store(0)
		wg.Go(func() {
			for p.acked.Load() < 14 && !stop.Load() { // twice is fewer than fill a chunk
				p.push(stop.Load)
			}
		})
	}
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(ps, func(p *pusher) bool { return p.acked.Load() < 3 })
	}, time.Minute, time.Millisecond)
	fill(t, dir, 0)
	require.Eventually(t, func() bool { return n.checkRoom() != nil }, time.Minute, 10*time.Millisecond)
	stop.Store(true)
	wg.Wait()
}

// restartFull stops, whatever comes of it, and starts without waiting.
func (n *node) restartFull() *Ingester {
	n.t.Helper()
	err := services.StopAndAwaitTerminated(context.Background(), n.Ingester)
	n.t.Logf("stopped on a full disk: %v", err)
	n.Ingester = n.make()
	require.NoError(n.t, n.StartAsync(context.Background()))
	return n.Ingester
}
