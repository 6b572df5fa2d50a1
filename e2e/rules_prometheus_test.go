//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/stretchr/testify/require"
)

// Each group is evaluated every two seconds, over what was sent some seconds
// ago: both have it by then.
var shopGroups = []string{`name: shop
interval: 2s
query_offset: 8s
labels: {team: x}
rules:
  - {record: "job:up:sum", expr: sum by (job) (up)}
  - {record: "job:up:twice", expr: "job:up:sum * 2", labels: {a: b}}
  - {record: "some", expr: "up == 1"}
  - {record: "latency:rate", expr: "sum(rate(latency[10s]))"}
  - {record: "dotted.name", expr: "sum by (\"dotted.label\") ({\"dotted.metric\"})"}
  - {alert: Down, expr: "up == 0", for: 6s, keep_firing_for: 6s, labels: {severity: page, v: "{{ $value }}"}, annotations: {s: "{{ $labels.job }} {{ query \"count(up)\" | first | value }}"}}
  - {alert: Now, expr: "up == 0"}
  - {alert: Gone, expr: "absent(up{job=\"two\"})", annotations: {s: "{{ $labels.job }}"}}
`, `name: limited
interval: 2s
query_offset: 8s
limit: 1
rules:
  - {record: "too:many", expr: up}
  - {record: "fine", expr: sum(up)}
  - {record: "broken", expr: "up * on() up"}
`}

// twins are a Prometheus and a Hearth with the same rules and the same data.
type twins struct {
	t     *testing.T
	h     *hearth
	p     *realPrometheus
	pager *pager
}

// read is what the rules of one of them have written.
func (w *twins) read(prometheus bool, from, to time.Time) stored {
	w.t.Helper()
	m := labels.MustNewMatcher(labels.MatchRegexp, "__name__", "job:.*|some|latency:rate|dotted.name|ALERTS.*|fine|too:many|broken")
	if prometheus {
		got, err := w.p.read("", from.UnixMilli(), to.UnixMilli(), m)
		require.NoError(w.t, err)
		return got
	}
	got, err := w.h.read("acme", from.UnixMilli(), to.UnixMilli(), m)
	require.NoError(w.t, err)
	return got
}

// write writes to both what a second has.
func (w *twins) write(list ...series) {
	w.t.Helper()
	body, err := remoteWrite1.encode(list)
	require.NoError(w.t, err)
	for _, to := range []struct {
		*endpoint
		path string
	}{{&w.h.endpoint, "/api/v1/push"}, {&w.p.endpoint, "/api/v1/write"}} {
		status, answer, err := to.do(http.MethodPost, to.path, "acme", remoteWrite1.header, body)
		require.NoError(w.t, err)
		require.Equal(w.t, 2, status/100, answer)
	}
}

func (w *twins) loadRules() {
	w.t.Helper()
	file := "groups:\n"
	for _, g := range shopGroups {
		file += "- " + strings.ReplaceAll(strings.TrimSpace(g), "\n", "\n  ") + "\n"
		status, answer, err := w.h.do(http.MethodPost, "/prometheus/config/v1/rules/shop", "acme", nil, []byte(g))
		require.NoError(w.t, err)
		require.Equal(w.t, http.StatusAccepted, status, answer)
	}
	// A group's place in time comes from its file's name and its own.
	require.NoError(w.t, os.Mkdir(filepath.Join(w.p.dir, "acme"), 0o777))
	require.NoError(w.t, os.WriteFile(filepath.Join(w.p.dir, "acme", "shop"), []byte(file), 0o666))
	w.p.reload(fmt.Sprintf("rule_files: [acme/shop]\nalerting: {alertmanagers: [{path_prefix: /prometheus, static_configs: [{targets: ['%s']}]}]}\n",
		strings.TrimPrefix(w.pager.URL, "http://")))
}

// The same rules over the same written data, in a real Prometheus and in
// Hearth: the same series are recorded and the same alerts fire, at the same
// times.
func TestRulesAsInPrometheus(t *testing.T) {
	t.Parallel()
	pager := newPager(t)
	w := &twins{t: t, pager: pager, h: startHearth(t, "limits.defaults.alertmanager_urls="+pager.URL+"/hearth"), p: startPrometheus(t, "")}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var from time.Time
	for second := range 70 {
		at := (<-tick.C).Truncate(time.Second)
		w.write(shopAt(second, at.UnixMilli())...)
		switch second {
		case 10:
			w.loadRules()
		case 24:
			from = at
		}
	}
	to := time.Now()
	until(t, patience, "all to be evaluated", func() error {
		for _, prometheus := range []bool{true, false} {
			if got := w.read(prometheus, to, to.Add(time.Hour)); len(got[`{__name__="fine"}`]) == 0 {
				return fmt.Errorf("Prometheus %v: nothing yet", prometheus)
			}
		}
		return nil
	})
	w.compareSeries(from, to)
	w.compareAlerts()
}

// shopAt is what a shop has in its second n: one is down for a while, two goes
// away, and comes back.
func shopAt(n int, at int64) []series {
	list := []series{
		floats(labels.FromStrings("__name__", "up", "job", "one"), at, 0, map[bool]float64{true: 0, false: 1}[n >= 25 && n < 40]),
		floats(labels.FromStrings("__name__", "dotted.metric", "dotted.label", "x"), at, 0, 7),
		{labels: labels.FromStrings("__name__", "latency"), points: []point{{t: at, fh: &histogram.FloatHistogram{
			Schema: 1, Count: float64(3 * n), Sum: float64(5 * n), ZeroThreshold: 0.001,
			PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}}, PositiveBuckets: []float64{float64(n), float64(2 * n)},
		}}}},
	}
	switch two := labels.FromStrings("__name__", "up", "job", "two"); {
	case n < 35 || n >= 50:
		list = append(list, floats(two, at, 0, 1))
	case n == 35:
		list = append(list, floats(two, at, 0, math.Float64frombits(value.StaleNaN)))
	}
	return list
}

// turn is a value that a series takes at a time.
type turn struct {
	at    int64
	value string
}

// turns are the values of a series, each once until another comes.
func turns(name string, points map[int64]point) (out []turn) {
	for _, at := range slices.Sorted(maps.Keys(points)) {
		text := points[at].String()
		if strings.Contains(name, "ALERTS_FOR_STATE") && text != "stale" {
			text = "since then" // a time that is as exact as the evaluations
		}
		if len(out) == 0 || out[len(out)-1].value != text {
			out = append(out, turn{at, text})
		}
	}
	return out
}

// longest is the longest time between two evaluations: the interval, unless the
// machine was too busy.
func longest(of stored) (worst int64) {
	times := slices.Sorted(maps.Keys(of[`{__name__="fine"}`]))
	for i := 1; i < len(times); i++ {
		worst = max(worst, times[i]-times[i-1])
	}
	return worst
}

func (w *twins) compareSeries(from, to time.Time) {
	w.t.Helper()
	want, got := w.read(true, from, to), w.read(false, from, to)
	for _, s := range []stored{want, got} { // of what ended before
		maps.DeleteFunc(s, func(_ string, points map[int64]point) bool { return len(points) == 0 })
	}
	require.Equal(w.t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
	require.GreaterOrEqual(w.t, len(want), 14)
	tolerance := max(longest(want), longest(got))
	exact, total := 0, 0
	for name := range want {
		wanted, have := turns(name, want[name]), turns(name, got[name])
		same := len(wanted) == len(have)
		for i := 0; same && i < len(wanted); i++ {
			same = wanted[i].value == have[i].value && abs(wanted[i].at-have[i].at) <= tolerance
			if total++; wanted[i] == have[i] {
				exact++
			}
		}
		if !same {
			w.t.Errorf("%s: want %v, got %v", name, wanted, have)
		}
	}
	w.t.Logf("%d series, %d changes of their values, %d of them at the same millisecond, the others not more than %d ms apart", len(want), total, exact, tolerance)
	w.t.Logf("series: %v", slices.Sorted(maps.Keys(want)))
}

func abs(n int64) int64 { return max(n, -n) }

// compareAlerts compares what both have told an Alertmanager.
func (w *twins) compareAlerts() {
	w.t.Helper()
	type course struct{ Fired, Resolved time.Time }
	told := map[string]map[string]course{"/prometheus/api/v2/alerts": {}, "/hearth/api/v2/alerts": {}}
	for _, a := range w.pager.all() {
		name := a.name() + " " + labels.FromMap(a.Annotations).String()
		c := told[a.path][name]
		if c.Fired.IsZero() {
			c.Fired = a.StartsAt
		}
		if a.resolved() {
			c.Resolved = a.EndsAt
		}
		told[a.path][name] = c
	}
	want, got := told["/prometheus/api/v2/alerts"], told["/hearth/api/v2/alerts"]
	require.Equal(w.t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
	require.Len(w.t, want, 3, "Down, Now, Gone")
	for name, c := range want {
		d := got[name]
		require.False(w.t, c.Resolved.IsZero() || d.Resolved.IsZero(), "%s resolved at %s, %s", name, c.Resolved, d.Resolved)
		require.WithinDuration(w.t, c.Fired, d.Fired, 4*time.Second, name)
		require.WithinDuration(w.t, c.Resolved, d.Resolved, 4*time.Second, name)
	}
}
