package querier

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// asTenant is an engine whose queries are the tenant's, for callers that know
// of no tenants.
type asTenant struct {
	promql.QueryEngine
	id tenant.ID
}

type queryAs struct {
	promql.Query
	id tenant.ID
}

func (a asTenant) NewInstantQuery(ctx context.Context, q storage.Queryable, o promql.QueryOpts, expr string, at time.Time) (promql.Query, error) {
	qry, err := a.QueryEngine.NewInstantQuery(tenant.WithID(ctx, a.id), q, o, expr, at)
	return queryAs{qry, a.id}, err
}

func (a asTenant) NewRangeQuery(ctx context.Context, q storage.Queryable, o promql.QueryOpts, expr string, start, end time.Time, step time.Duration) (promql.Query, error) {
	qry, err := a.QueryEngine.NewRangeQuery(tenant.WithID(ctx, a.id), q, o, expr, start, end, step)
	return queryAs{qry, a.id}, err
}

func (q queryAs) Exec(ctx context.Context) *promql.Result {
	return q.Query.Exec(tenant.WithID(ctx, q.id))
}

// houseStorage is a database that is written as itself and read through a
// Querier.
type houseStorage struct {
	*teststorage.TestStorage
	read storage.SampleAndChunkQueryable
}

func (s houseStorage) Querier(mint, maxt int64) (storage.Querier, error) {
	return s.read.Querier(mint, maxt)
}

func (s houseStorage) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	return s.read.ChunkQuerier(mint, maxt)
}

// Prometheus' own suite, all of it, through recent data.
func TestPrometheusSuite(t *testing.T) {
	t.Parallel()
	runSuite(t, t, math.MinInt64/2, 0)
}

// The same with the data divided in recent and stored at a time that lies
// within most series. Where two sources meet, a histogram no longer knows
// whether a counter reset lies before it, in Prometheus as here; two cases of
// one file look at that.
func TestPrometheusSuiteDivided(t *testing.T) {
	t.Parallel()
	runSuite(t, skipping{t, "testdata/native_histograms.test"}, 7*minute, 2*minute)
}

type skipping struct {
	*testing.T
	file string
}

func (s skipping) Run(name string, f func(*testing.T)) bool {
	return name == s.file || s.T.Run(name, f)
}

func runSuite(t *testing.T, files promqltest.TBRun, cut, overlap int64) {
	t.Helper()
	dbs := map[tenant.ID]*tsdb.DB{}
	h := newHouse(t, dbs, cut, overlap, func(c *Config) { c.DelayedNameRemoval = true })
	h.engine.opts.UseStartTimestamps = true // a feature flag that the suite is written for
	h.limits.MaxSamplesPerQuery = promqltest.DefaultMaxSamplesPerQuery
	promqltest.RunBuiltinTestsWithStorage(files, asTenant{h.Engine(), alice}, func(tb testing.TB) storage.Storage {
		s := teststorage.New(tb, func(opt *tsdb.Options) {
			opt.EnableSTStorage = true
			opt.FloatChunkEncoding = chunkenc.EncXOR2
			opt.EnableHistogramSTEncoding = true
		})
		dbs[alice] = s.DB
		return houseStorage{s, h.Queryable()}
	})
	h.allClosed(t)
}

// exprs generates random expressions over the test data.
type exprs struct{ *rand.Rand }

func (g exprs) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g exprs) selector() string {
	s := g.pick("up", "requests_total", "hist", "native", "native_float", `{__name__=~"up|hist"}`, `{job="a"}`, `requests_total{instance!="2"}`, `requests_total{job=~"a|c"}`, `{"with.dot"}`)
	return s
}

func (g exprs) duration() string { return g.pick("30s", "1m", "5m", "11m", "1h", "90m") }

func (g exprs) modifiers() string {
	m := ""
	if g.IntN(4) == 0 {
		m += " offset " + g.pick("", "-") + g.duration()
	}
	if g.IntN(6) == 0 {
		m += " @ " + g.pick("start()", "end()", secs(t0+hour))
	}
	return m
}

func (g exprs) vector(depth int) string {
	if depth == 0 {
		return g.selector() + g.modifiers()
	}
	inner := func() string { return g.vector(depth - 1) }
	switch g.IntN(9) {
	case 0:
		return fmt.Sprintf("%s(%s[%s]%s)", g.pick("rate", "increase", "delta", "avg_over_time", "max_over_time", "count_over_time", "last_over_time", "changes", "resets", "irate", "sum_over_time", "quantile_over_time", "ts_of_max_over_time"), g.selector(), g.duration(), g.modifiers())
	case 1:
		return fmt.Sprintf("%s %s (%s)", g.pick("sum", "avg", "max", "count", "group", "stddev"), g.pick("by (job)", "without (instance)", ""), inner())
	case 2:
		return fmt.Sprintf("(%s) %s %s (%s)", inner(), g.pick("+", "-", "/", "*", "> bool", "and", "or", "unless", "=="), g.pick("", "", "on(job)", "ignoring(instance)"), inner())
	case 3:
		return fmt.Sprintf("%s((%s)[%s:%s]%s)", g.pick("max_over_time", "avg_over_time", "rate", "count_over_time"), inner(), g.duration(), g.pick("", "30s", "2m"), g.modifiers())
	case 4:
		return fmt.Sprintf("%s(%s)", g.pick("abs", "-", "ceil", "histogram_count", "histogram_sum", "timestamp", "absent", "sort_by_label"), inner())
	case 5: // topk is left out: among equals it takes any
		return fmt.Sprintf("clamp(%s, -1, %d)", inner(), g.IntN(5))
	case 6:
		return fmt.Sprintf("histogram_quantile(%.2f, %s)", g.Float64(), inner())
	case 7:
		return fmt.Sprintf("label_replace(%s, \"x\", \"$1\", \"job\", \"(.*)\")", inner())
	default:
		return inner()
	}
}

// Random queries over divided data give what a plain engine gives over one
// database, to the last bit, errors and annotations too.
// equalButForRounding allows for what the engine itself adds up in an order
// that it draws by lot, as it does behind sort_by_label.
func equalButForRounding(want, got string) bool {
	a, b := strings.Fields(want), strings.Fields(got)
	return slices.EqualFunc(a, b, func(a, b string) bool {
		x, errX := strconv.ParseFloat(a, 64)
		y, errY := strconv.ParseFloat(b, 64)
		return a == b || errX == nil && errY == nil && math.Abs(x-y) <= 1e-12*math.Max(math.Abs(x), math.Abs(y))
	})
}

// inOrder has series come sorted where the engine does not ask for it: sums
// are then added up in one order, and equal to the last bit.
type inOrder struct{ storage.Queryable }

func (o inOrder) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := o.Queryable.Querier(mint, maxt)
	return orderedQuerier{q}, err
}

type orderedQuerier struct{ storage.Querier }

func (q orderedQuerier) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(ctx, true, h, ms...)
}

func TestRandomQueriesEqualPrometheus(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	fill(t, db, "x")
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: db}, t0+hour, 10*minute)
	plain, ours := plainEngine(), asTenant{h.Engine(), alice}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := exprs{rand.New(rand.NewPCG(seed, 0))}

	n, failed := 0, 0
	for range 1500 {
		expr := strings.Replace(g.vector(1+g.IntN(3)), "quantile_over_time(", "quantile_over_time(0.5, ", 1)
		start := time.UnixMilli(t0 + g.Int64N(2*hour))
		h.recent.mint = t0 + g.Int64N(2*hour)
		h.stored.maxt = h.recent.mint + g.Int64N(hour)
		run := func(e promql.QueryEngine, q storage.Queryable) string {
			var (
				qry promql.Query
				err error
			)
			if n%2 == 0 {
				qry, err = e.NewInstantQuery(t.Context(), q, nil, expr, start)
			} else {
				qry, err = e.NewRangeQuery(t.Context(), q, nil, expr, start, start.Add(40*time.Minute), 3*time.Minute)
			}
			if err != nil {
				return "invalid: " + err.Error()
			}
			defer qry.Close()
			res := qry.Exec(t.Context())
			if res.Err != nil {
				failed++
			}
			warnings, infos := res.Warnings.AsStrings(expr, 0, 0)
			lines := strings.Split(fmt.Sprintf("%v\n%v", res.Value, res.Err), "\n")
			for i := range lines {
				lines[i], _, _ = strings.Cut(lines[i], " for the match group ") // it names any two
			}
			if n%2 == 0 {
				slices.Sort(lines) // the order of an instant vector is nobody's promise
			}
			slices.Sort(warnings)
			slices.Sort(infos)
			return fmt.Sprint(strings.Join(lines, "\n"), warnings, infos)
		}
		want := run(plain, inOrder{db})
		got := run(ours, inOrder{h.Queryable()})
		if equalButForRounding(want, got) {
			got = want
		}
		require.Equal(t, want, got, "%s at %s, recent from %d, stored to %d", expr, start, h.recent.mint-t0, h.stored.maxt-t0)
		n++
	}
	t.Logf("%d queries, %d of them errors", n, failed/2)
	require.Less(t, failed/2, n/2)
	h.allClosed(t)
}

func TestEnginesAreKeptByLimit(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil, 0, 0)
	a := h.engine.withMaxSamples(10)
	require.Same(t, a, h.engine.withMaxSamples(10))
	require.NotSame(t, a, h.engine.withMaxSamples(11))
	for n := range 3 * maxEngines {
		h.engine.withMaxSamples(n)
	}
	require.LessOrEqual(t, len(h.engine.bySamples), maxEngines)
}
