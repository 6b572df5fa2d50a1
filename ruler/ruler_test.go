package ruler

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
)

// history is all samples of a database between two times, by series, in words.
func history(t *testing.T, db *teststorage.TestStorage, selector string, from, to time.Time) map[string][]string {
	t.Helper()
	ms, err := parser.NewParser(parser.Options{}).ParseMetricSelector(selector)
	require.NoError(t, err)
	q, err := db.Querier(from.UnixMilli(), to.UnixMilli())
	require.NoError(t, err)
	defer q.Close()
	out := map[string][]string{}
	set := q.Select(context.Background(), true, nil, ms...)
	for set.Next() {
		it := set.At().Iterator(nil)
		for it.Next() == chunkenc.ValFloat {
			at, v := it.At()
			text := fmt.Sprint(v)
			if value.IsStaleNaN(v) {
				text = "stale"
			} else if math.IsNaN(v) {
				text = "NaN"
			}
			out[set.At().Labels().String()] = append(out[set.At().Labels().String()], fmt.Sprintf("%d: %s", at, text))
		}
	}
	require.NoError(t, set.Err())
	return out
}

const everything = `name: all
interval: 30s
labels: {team: x}
rules:
  - {record: "job:up:sum", expr: "sum by (job) (up)"}
  - {record: "job:up:twice", expr: "job:up:sum * 2", labels: {a: b}}
  - {record: "some", expr: "up == 1"}
  - {record: "broken", expr: "up * on() up"}
  - {alert: Down, expr: "up == 0", for: 2m, keep_firing_for: 3m, labels: {severity: page, v: "{{ $value }}"}, annotations: {s: "{{ $labels.job }} {{ query \"sum(up)\" | first | value }}"}}
  - {alert: Now, expr: "up == 0"}
  - {alert: Recorded, expr: "job:up:sum == 0", for: 1m}
`

const late = `name: late
interval: 20s
query_offset: 1m
limit: 1
rules:
  - {record: "late:up", expr: "sum(up)"}
  - {record: "late:too_many", expr: "up"}
`

// load is a rules.GroupLoader of texts.
type load map[string]string

func (l load) Load(file string, ignore bool, scheme model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	g, err := parseGroup([]byte(l[file]), parser.NewParser(parser.Options{}))
	if err != nil {
		return nil, []error{err}
	}
	return &rulefmt.RuleGroups{Groups: []rulefmt.RuleGroup{g.RuleGroup}}, nil
}

func (load) Parse(expr string) (parser.Expr, error) {
	return parser.NewParser(parser.Options{}).ParseExpr(expr)
}

// The same rules over the same data record the same series at the same times,
// and tell of the same alerts, as in Prometheus.
func TestRulesMeanWhatTheyMeanInPrometheus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		began := time.Now()
		post(t, r, "t", "a", everything)
		post(t, r, "t", "b", late)

		plain := w.db("plain")
		var mu sync.Mutex
		var toldThere []string
		m := rules.NewManager(&rules.ManagerOptions{
			QueryFunc: rules.EngineQueryFunc(w.engine, plain), Queryable: plain, Appendable: plain,
			NotifyFunc: func(_ context.Context, _ string, alerts ...*rules.Alert) {
				mu.Lock()
				defer mu.Unlock()
				for _, a := range alerts {
					toldThere = append(toldThere, alertText(a.Labels, a.Annotations, a.FiredAt, a.ResolvedAt))
				}
			},
			Context: context.Background(), ExternalURL: &url.URL{}, Logger: w.logger,
			OutageTolerance: time.Hour, ResendDelay: time.Minute, GroupLoader: load{"t/a": everything, "t/b": late},
		})
		go m.Run()
		require.NoError(t, m.Update(time.Minute, []string{"t/a", "t/b"}, labels.EmptyLabels(), "", nil))

		// Up, down, away, and back.
		for i := range 60 {
			for j, job := range []string{"one", "two"} {
				v := float64(1)
				if i > 10+10*j && i < 30 {
					v = 0
				}
				if i > 40 && j == 1 {
					continue
				}
				for _, id := range []string{"t", "plain"} {
					w.write(asID(id), fmt.Sprintf("up{job=%q}", job), v)
				}
			}
			time.Sleep(15 * time.Second)
			synctest.Wait()
		}
		m.Stop()
		require.NoError(t, services.StopAndAwaitTerminated(t.Context(), r))

		from, to := began.Add(2*time.Minute), time.Now() // Prometheus waits for its second evaluation
		want := history(t, plain, `{__name__=~".+"}`, from, to)
		require.Equal(t, want, history(t, w.db("t"), `{__name__=~".+"}`, from, to))
		require.Greater(t, len(want), 8)
		require.Contains(t, fmt.Sprint(want), "stale")

		var got []string
		for _, a := range w.takeTold() {
			resolved := time.Time{}
			if a.resolved {
				resolved = a.EndsAt
			}
			got = append(got, alertText(a.Labels, a.Annotations, a.StartsAt, resolved))
		}
		slices.Sort(got)
		slices.Sort(toldThere)
		require.Greater(t, len(got), 30)
		require.Equal(t, toldThere, got)
	})
}

func alertText(ls, as labels.Labels, fired, resolved time.Time) string {
	return fmt.Sprintf("%s %s %s %s", ls, as, fired, resolved)
}

const down = `name: down
interval: 1m
rules:
  - {alert: Down, expr: "up == 0", for: 10m}
  - {record: "up:recorded", expr: "up"}
`

// feed writes a sample every 15 seconds for so long.
func feed(w *world, d time.Duration, v float64) {
	for range d / (15 * time.Second) {
		w.write("t", `up{job="j"}`, v)
		time.Sleep(15 * time.Second)
	}
	synctest.Wait()
}

// An alert goes on where it was when its group moves to another ruler, and back,
// whether the first one says goodbye or not: its start does not change, it does
// not resolve, and nothing ends the series.
func TestAlertsSurviveMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		post(t, w.join("one"), "t", "ns", down)
		feed(w, 5*time.Minute, 0) // pending for 5 minutes of 10
		began := time.Now()
		require.Empty(t, w.takeTold())

		w.leave("one")
		w.join("two")
		feed(w, 5*time.Minute, 0)
		third := "three"
		for name := (groupName{"ns", "down"}); owner([]ring.Member{{ID: "two"}, {ID: third}}, "t", name).ID != third; {
			third += "x"
		}
		w.join(third) // it moves again, from a ruler that stays
		feed(w, 3*time.Minute, 0)
		told := w.takeTold()
		require.NotEmpty(t, told, "10 minutes, and not more than one interval for each move")
		for _, a := range told {
			require.False(t, a.resolved)
		}
		last := told[len(told)-1]

		// Firing: through a restart of all, with the data away at first.
		w.leave("two")
		w.leave(third)
		w.setAway(true)
		w.join("four")
		feed(w, 3*time.Minute, 0)
		require.Empty(t, w.takeTold(), "nothing is told before it is known")
		require.False(t, last.Resolved(), "Alertmanager must not resolve it meanwhile")
		w.setAway(false)
		feed(w, 2*time.Minute, 0)
		told = w.takeTold()
		require.NotEmpty(t, told, "fires at once, not after another 10 minutes")
		for _, a := range told {
			require.False(t, a.resolved)
		}
		for series, samples := range history(t, w.db("t"), `{__name__=~"ALERTS|ALERTS_FOR_STATE|up:recorded",alertstate!="pending"}`, began, time.Now()) {
			require.NotContains(t, strings.Join(samples, " "), "stale", series)
		}

		feed(w, 2*time.Minute, 1)
		told = w.takeTold()
		require.NotEmpty(t, told)
		require.True(t, told[len(told)-1].resolved)
	})
}

// Of a tenant that is suspended nothing is evaluated; when it is active again its
// rules are. What was removed meanwhile is not.
func TestOnlyActiveTenantsAreEvaluated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		for _, id := range []string{"t", "gone"} {
			post(t, r, asID(id), "ns", down)
		}
		evaluated := func(want int, what string) {
			t.Helper()
			began := time.Now().Add(time.Millisecond)
			feed(w, 3*time.Minute, 1)
			for _, samples := range history(t, w.db("t"), "up:recorded", began, time.Now()) {
				require.Len(t, samples, want, what)
				want = 0
			}
			require.Zero(t, want, what)
		}
		evaluated(3, "active")
		for _, s := range []tenant.Status{tenant.Suspended, tenant.ReadOnly, tenant.Deleting} {
			for _, id := range []string{"t", "gone"} {
				w.status.Store(asID(id), s)
			}
			time.Sleep(2 * time.Second)
			evaluated(0, string(s))
			require.Empty(t, r.ourStates("t"))
		}
		require.NoError(t, Forget(t.Context(), w.bucket, "gone"))
		w.status.Clear()
		time.Sleep(2 * time.Second)
		evaluated(3, "active again")
		require.Len(t, r.ourStates("t"), 1)
		require.Empty(t, r.ourStates("gone"))
	})
}

// Each group has one ruler, and with a ruler more only what it takes moves.
func TestOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := w.join("one")
		const groups = 60
		for i := range groups {
			post(t, one, asID(fmt.Sprint("t", i%20)), fmt.Sprint("ns", i), down)
		}
		owned := func() map[string]string {
			time.Sleep(3 * time.Second)
			synctest.Wait()
			out := map[string]string{}
			for name, r := range w.rulers {
				r.mu.Lock()
				for id, tenant := range r.tenants {
					for g := range tenant.ours {
						key := fmt.Sprint(id, g)
						require.Empty(t, out[key], "two rulers have %s", key)
						out[key] = name
					}
				}
				r.mu.Unlock()
			}
			require.Len(t, out, groups)
			return out
		}
		owned()
		two := w.join("two")
		before := owned()
		w.join("three")
		counts := map[string]int{}
		for key, name := range owned() {
			counts[name]++
			require.True(t, name == before[key] || name == "three", "%s moved from %s to %s", key, before[key], name)
		}
		require.Len(t, counts, 3)
		for name, n := range counts {
			require.Greater(t, n, groups/8, name)
		}

		// All are seen from everywhere; what nobody answers for is named.
		code, body := ask(t, two, "t1", "GET", "/prometheus/api/v1/rules", "")
		require.Equal(t, 200, code)
		require.Equal(t, 3, strings.Count(body, `"name":"down"`))
		require.NotContains(t, body, "warnings")
		w.mu.Lock()
		gone := w.rulers["three"]
		delete(w.rulers, "three")
		w.mu.Unlock()
		code, body = ask(t, two, "t1", "GET", "/prometheus/api/v1/rules", "")
		require.Equal(t, 200, code)
		require.Equal(t, 3, strings.Count(body, `"name":"down"`))
		require.Contains(t, body, "warnings")
		w.rulers["three"] = gone

		// A change is heard at once by all.
		code, _ = ask(t, two, "t1", "DELETE", "/api/v1/rules/ns1", "")
		require.Equal(t, 202, code)
		time.Sleep(time.Second)
		synctest.Wait()
		for _, r := range w.rulers {
			require.Equal(t, 2, func() int { r.mu.Lock(); defer r.mu.Unlock(); d := r.tenants["t1"].doc; return d.groups() }())
		}
	})
}
