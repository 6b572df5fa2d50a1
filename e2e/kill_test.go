package e2e

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/stretchr/testify/require"
)

// TestKill kills hearth under load, again and again. What it has acknowledged
// is there afterwards, each sample once and as it was sent, and nothing else
// but what was sent. A request without an answer is sent again after the
// restart, as Prometheus does.
func TestKill(t *testing.T) {
	t.Parallel()
	rnd := newRand(t, uint64(time.Now().UnixNano()))
	rounds := 3
	if long {
		rounds = 10
	}
	h := startHearth(t, "limits.tenants.own={own_head: true}")
	base := time.Now().Add(-time.Hour).Truncate(time.Minute).UnixMilli()
	var writers []*writer
	for i, id := range []string{"pool-1", "pool-1", "pool-2", "own", "own"} {
		writers = append(writers, &writer{h: h, tenant: id, name: fmt.Sprint("w", i), proto: protocols[i%2], base: base, sent: map[int]bool{}})
	}
	acked := 0
	for round := range rounds {
		target, flushing := 50+rnd.IntN(400), round%2 == 1
		acked += loadUntil(t, h, writers, target, flushing, h.kill)
		for rnd.IntN(2) == 0 { // the next one is killed too, while it reads its log
			h.launch()
			select {
			case <-time.After(time.Duration(rnd.IntN(600)) * time.Millisecond):
			case <-h.exited:
			}
			h.kill()
		}
		h.start()
		checkWriters(t, h, writers, fmt.Sprintf("after kill %d (while flushing: %t)", round+1, flushing))
	}
	t.Logf("%d kills, %d requests acknowledged", rounds, acked)
	loadUntil(t, h, writers, 20, false, func() {})
	h.flush()
	checkWriters(t, h, writers, "after a flush")
	h.forgetRecent()
	checkWriters(t, h, writers, "from the bucket alone")
}

// loadUntil lets all writers write until so many requests are acknowledged,
// then does end while they still write, and waits for them. It returns how
// many requests were acknowledged in the end.
func loadUntil(t *testing.T, h *hearth, writers []*writer, target int, flushing bool, end func()) int {
	t.Helper()
	var (
		acked atomic.Int64
		stop  atomic.Bool
		wg    sync.WaitGroup
		errs  = make(chan error, len(writers))
		there = make(chan struct{})
		once  sync.Once
	)
	for _, w := range writers {
		wg.Go(func() {
			for !stop.Load() {
				switch ok, err := w.write(); {
				case err != nil:
					errs <- err
					return
				case !ok: // hearth is gone, or busy
					if stop.Load() {
						return
					}
				case acked.Add(1) >= int64(target):
					once.Do(func() { close(there) })
				}
			}
		})
	}
	if flushing {
		wg.Go(func() {
			for !stop.Load() {
				_, _, _ = h.do(http.MethodPost, "/ingester/flush?wait=true", "", nil, nil) // ends with hearth
			}
		})
	}
	select {
	case <-there:
	case err := <-errs:
		errs <- err
	case <-time.After(patience):
		errs <- fmt.Errorf("%d of %d requests were acknowledged within %s", acked.Load(), target, patience)
	}
	end()
	stop.Store(true)
	wg.Wait()
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
	return int(acked.Load())
}

// writer sends numbered requests. What request n holds follows from n, so that
// what was read back can be told from what was never sent.
type writer struct {
	h      *hearth
	tenant string
	name   string
	proto  *protocol
	base   int64 // ms

	next int
	sent map[int]bool // true: acknowledged
}

// write sends the next request, or the last one once more if that was not
// acknowledged. An error is an answer that there should not be.
func (w *writer) write() (acknowledged bool, err error) {
	good, bad := w.request(w.next)
	w.sent[w.next] = false
	status, answer, err := w.h.send(w.proto, w.tenant, append(good, bad...)...)
	switch {
	case err != nil, status == http.StatusServiceUnavailable:
		return false, nil
	case status == w.proto.success && len(bad) == 0:
	case status == http.StatusBadRequest && len(bad) > 0 && strings.Contains(answer, "the rest of the request is stored") && refusedOnly(answer):
	default:
		return false, fmt.Errorf("request %d of %s (%s), of which %d series are bad: %d %s", w.next, w.name, w.proto.name, len(bad), status, answer)
	}
	w.sent[w.next] = true
	w.next++
	return true, nil
}

// refusedOnly says that nothing was refused but what w.request makes to be so.
func refusedOnly(answer string) bool {
	return !strings.Contains(answer, "err-sample-") && !strings.Contains(answer, "err-max-")
}

// request is what request n holds: series that are good, and such as must be
// refused. Samples come in order, a little out of order, and much.
func (w *writer) request(n int) (good, bad []series) {
	named := func(metric string, more ...string) labels.Labels {
		return labels.FromStrings(append([]string{"__name__", metric, "writer", w.name}, more...)...)
	}
	i, at := int64(n), w.base+int64(n)*1000
	for k := range int64(4) {
		good = append(good, floats(named("kill_float", "k", fmt.Sprint(k)), at+k, 1, float64(10*i+k)))
	}
	stale := series{labels: named("kill_stale"), points: []point{{t: at, v: float64(n)}}}
	if n%7 == 0 {
		stale.points[0].v = math.Float64frombits(value.StaleNaN)
	}
	good = append(good, stale,
		floats(named("kill_late"), w.base+(i^7)*1000, 1, float64(n)),
		floats(named("kill_very_late"), at-(i%2)*2_400_000, 1, float64(n)),
	)
	if n%2 == 0 { // the rest are nothing but floats, which go by keys in a cluster
		good = append(good,
			series{labels: named("kill_hist"), points: []point{{t: at, h: exponential(i)}}},
			series{labels: named("kill_late_hist"), points: []point{{t: w.base + (i^3)*1000, h: exponential(i)}}},
			series{labels: named("kill_float_hist"), points: []point{{t: at, fh: exponential(i).ToFloat(nil)}}},
			series{labels: named("kill_custom"), points: []point{{t: at, h: customBuckets(i)}}},
		)
	}
	if n%5 == 0 {
		good = append(good, floats(named("kill_new", "n", fmt.Sprint(n)), at, 1, float64(n)))
	}
	if n%3 == 0 {
		wrong := exponential(i)
		wrong.Count++
		bad = append(bad,
			floats(labels.FromStrings("bad", "nameless", "writer", w.name), at, 1, 1),
			floats(named("bad_early"), time.Now().Add(24*time.Hour).UnixMilli(), 1, 1),
			series{labels: named("bad_hist"), points: []point{{t: at, h: wrong}}},
		)
	}
	return good, bad
}

// checkWriters reads everything back, in all ways there are.
func checkWriters(t *testing.T, h *hearth, writers []*writer, when string) {
	t.Helper()
	began := time.Now()
	byTenant := map[string][]*writer{}
	most := 0
	for _, w := range writers {
		byTenant[w.tenant] = append(byTenant[w.tenant], w)
		most = max(most, w.next)
	}
	base := writers[0].base
	minT, maxT := base-time.Hour.Milliseconds(), time.Now().Add(48*time.Hour).UnixMilli()
	samples := 0
	for id, ws := range byTenant {
		got, err := h.read(id, minT, maxT, everything())
		require.NoError(t, err, "%s, %s", id, when)
		compareSent(t, ws, got, id+", "+when)
		chunks, err := h.readChunks(id, minT, maxT, everything())
		require.NoError(t, err, "%s, %s", id, when)
		compareSent(t, ws, chunks, id+", as chunks, "+when)
		nameless, err := h.read(id, minT, maxT, labels.MustNewMatcher(labels.MatchNotEqual, "bad", ""))
		require.NoError(t, err)
		require.Empty(t, nameless, "%s, %s", id, when)

		samples += comparePromQL(t, h, id, got, minT, base+int64(most+1000)*1000, when)
	}
	t.Logf("%s: %d samples are right (%s)", when, samples, time.Since(began).Round(time.Millisecond))
}

// compareSent finds samples that are missing, changed, or were never sent.
func compareSent(t *testing.T, writers []*writer, got stored, when string) {
	t.Helper()
	left := stored{}
	for name, points := range got {
		left[name] = maps.Clone(points)
	}
	var wrong []string
	for _, w := range writers {
		for n, acked := range w.sent {
			good, _ := w.request(n)
			for _, s := range good {
				name := s.labels.String()
				for _, p := range s.points {
					have, ok := left[name][p.t]
					delete(left[name], p.t)
					switch {
					case !ok && acked:
						wrong = append(wrong, fmt.Sprintf("acknowledged and lost: request %d of %s (%s), %s at %d", n, w.name, w.proto.name, name, p.t))
					case ok && have.differs(p) != "":
						wrong = append(wrong, fmt.Sprintf("changed: request %d of %s (%s), %s: %s", n, w.name, w.proto.name, name, have.differs(p)))
					}
				}
			}
		}
	}
	for name, points := range left {
		for at, p := range points {
			wrong = append(wrong, fmt.Sprintf("never sent: %s at %d: %s", name, at, p))
		}
	}
	if len(wrong) > 0 {
		t.Fatalf("%s: %d samples are wrong, among them\n%s", when, len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
}

// comparePromQL checks that a range selector gives the samples that remote
// read gave, but for stale markers, and returns how many there are.
func comparePromQL(t *testing.T, h *hearth, tenant string, got stored, minT, maxT int64, when string) int {
	t.Helper()
	want, samples := map[string][]string{}, 0
	for name, points := range got {
		for _, at := range slices.Sorted(maps.Keys(points)) {
			samples++
			switch p := points[at]; {
			case p.h != nil, p.fh != nil:
				want[name] = append(want[name], seconds(at)+" histogram")
			case !value.IsStaleNaN(p.v):
				want[name] = append(want[name], seconds(at)+" "+p.String())
			}
		}
	}
	have := map[string][]string{}
	for _, s := range h.instant(tenant, fmt.Sprintf(`{__name__=~".+"}[%dms]`, maxT-minT), maxT).Samples {
		for _, v := range s.Values {
			have[s.name()] = append(have[s.name()], fmt.Sprintf("%.3f %v", v[0], v[1]))
		}
		for _, v := range s.Histograms {
			have[s.name()] = append(have[s.name()], fmt.Sprintf("%.3f histogram", v[0]))
		}
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(have)), "%s, %s", tenant, when)
	for name := range want {
		require.Equal(t, want[name], have[name], "%s, %s, %s", tenant, name, when)
	}
	return samples
}
