package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// limited is a node whose limits change while it runs.
type limited struct {
	*node
	now atomic.Pointer[tenant.Limits]
}

func newLimited(n *node) *limited {
	l := &limited{node: n}
	l.set(func(*tenant.Limits) {})
	return l
}

func (l *limited) set(change func(*tenant.Limits)) {
	limits := l.limits.Defaults
	change(&limits)
	l.now.Store(&limits)
}

func (l *limited) start() {
	l.t.Helper()
	i := l.make()
	i.limits = func(tenant.ID) *tenant.Limits { return l.now.Load() }
	require.NoError(l.t, services.StartAndAwaitRunning(context.Background(), i))
	l.Ingester = i
}

func (l *limited) restart() { l.t.Helper(); l.stop(); l.start() }

func teamLimit(team string, most int) tenant.LabelSet {
	return tenant.LabelSet{LabelSet: map[string]string{"team": team}, Limits: tenant.LabelSetLimits{MaxSeries: most}}
}

// refusedBy is how many samples each reason refused.
func refusedBy(p wire.Pushed) map[string]int {
	out := map[string]int{}
	for _, c := range p.Refused.Counts {
		out[c.ID] = c.Count
	}
	return out
}

// Random series of random tenants go through random limits, and restarts, cuts
// and the loss of series: what is let in is what an oracle that counts says.
func TestSeriesAreLimitedByMetricAndLabelSet(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		l := newLimited(n)
		l.set(func(l *tenant.Limits) {
			l.MaxSeriesPerMetric = 5
			l.LabelSets = []tenant.LabelSet{teamLimit("a", 7), teamLimit("b", 3), {LabelSet: map[string]string{"team": "a", "env": "x"}, Limits: tenant.LabelSetLimits{MaxSeries: 2}}}
		})
		l.start()
		rnd := rand.New(rand.NewPCG(1, 2))
		have := map[string]bool{} // series that are in
		count := map[string]int{} // by tenant and metric, or label set
		b := base()
		for k := range int64(300) {
			switch rnd.IntN(60) {
			case 0:
				l.restart()
			case 1:
				_, err := l.flush(context.Background(), l.heads())
				require.NoError(t, err)
				clear(have) // a cut takes all series out of memory
				clear(count)
			}
			id := tenant.ID(fmt.Sprint("t", rnd.IntN(2)))
			metric, team, env := fmt.Sprint("m", rnd.IntN(4)), string("abc"[rnd.IntN(3)]), string("xy"[rnd.IntN(2)])
			name := fmt.Sprintf(`%s{team="%s", env="%s", i="%d"}`, metric, team, env, rnd.IntN(6))
			keys := map[string]int{metric: 5}
			switch team {
			case "a":
				keys["a"] = 7
			case "b":
				keys["b"] = 3
			}
			if team == "a" && env == "x" {
				keys["ax"] = 2
			}
			fits := true
			for key, most := range keys {
				fits = fits && count[string(id)+key] < most
			}
			key := string(id) + name
			p := l.push(id, series(name, at(b+k*1000, 1)))
			want := 0
			if have[key] || fits {
				want = 1
			}
			require.Equal(t, want, p.Samples, "step %d: %s of %s: %v", k, name, id, p.Refused.First)
			if want == 1 && !have[key] {
				have[key] = true
				for key := range keys {
					count[string(id)+key]++
				}
			}
		}
		require.Greater(t, len(have), 10)
	})
}

// A limit that comes while series are there holds for them within seconds.
func TestSeriesAreCountedForANewLimit(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		l := newLimited(n)
		l.start()
		b := base()
		push := func(from, to int, team string) map[string]int {
			var all []prompb.TimeSeries
			for k := from; k < to; k++ {
				all = append(all, series(fmt.Sprintf(`m{i="%d", team="%s"}`, k, team), at(b, 1)))
			}
			return refusedBy(l.push("t", all...))
		}
		require.Empty(t, push(0, 10, "a"))
		require.Empty(t, push(0, 3, "b"))

		l.set(func(l *tenant.Limits) {
			l.MaxSeriesPerMetric = 13
			l.LabelSets = []tenant.LabelSet{teamLimit("a", 100)}
		})
		next := 100
		require.Eventually(t, func() bool {
			next++
			return push(next, next+1, "b")["err-max-series-per-metric"] == 1
		}, time.Minute, 10*time.Millisecond, "a limit below what is there")
		require.Empty(t, push(0, 10, "a"), "series that are there go on")
		p := l.push("t", series(`other{team="a"}`, at(b, 1)))
		require.Equal(t, 1, p.Samples, "another metric has room")

		l.set(func(l *tenant.Limits) { l.LabelSets = []tenant.LabelSet{teamLimit("a", 11), teamLimit("c", 1)} })
		require.Eventually(t, func() bool {
			next++
			return push(next, next+1, "a")["err-max-series-per-label-set"] == 1
		}, time.Minute, 10*time.Millisecond)
		require.Empty(t, push(0, 1, "c"))
		require.Equal(t, map[string]int{"err-max-series-per-label-set": 2}, push(1, 3, "c"))
		sets := map[string]int{}
		l.EachLabelSet(func(id tenant.ID, set string, series int) { sets[string(id)+set] = series })
		require.Equal(t, 1, sets[`t{team="c"}`])
		require.GreaterOrEqual(t, sets[`t{team="a"}`], 11)
		refused := l.push("t", series(`m{i="x", team="c"}`, at(b, 1))).Refused.First
		require.Contains(t, refused.Error(), `{team="c"} reached: 1 of 1 (limit limits_per_label_set)`)

		l.set(func(*tenant.Limits) {})
		require.Empty(t, push(200, 220, "a"), "a limit that is gone")
		require.Eventually(t, func() bool {
			for _, h := range l.heads() {
				h.counts.mu.Lock()
				left := len(h.counts.tallies)
				h.counts.mu.Unlock()
				if left > 0 {
					return false
				}
			}
			return true
		}, time.Minute, 10*time.Millisecond, "leaves no counts behind")
	})
}

// In a cluster each ingester has its part of a limit.
func TestAPartOfALimitByMetric(t *testing.T) {
	n := newNode(t)
	n.limits.Defaults.MaxSeriesPerMetric = 30
	i := n.make()
	i.ShareLimits(func(tenant.ID) (copies, members int) { return 3, 9 })
	require.NoError(t, services.StartAndAwaitRunning(context.Background(), i))
	n.Ingester = i
	var all []prompb.TimeSeries
	for k := range 20 {
		all = append(all, series(fmt.Sprintf(`m{i="%d"}`, k), at(base(), 1)))
	}
	p := n.push("t", all...)
	require.Equal(t, 10, p.Samples)
	require.Contains(t, p.Refused.First.Error(), "30 of 30")
}
