package querier

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/tenant"
)

var (
	fromStrings = labels.FromStrings
	parseQuery  = url.ParseQuery
	equal       = func(name, value string) *labels.Matcher {
		return labels.MustNewMatcher(labels.MatchEqual, name, value)
	}
	sharedDB struct {
		sync.Mutex
		t  testing.TB
		db *tsdb.DB
	}
)

// sharedHouse is a new house over a database that the test has made once.
func sharedHouse(t testing.TB) *house {
	t.Helper()
	sharedDB.Lock()
	defer sharedDB.Unlock()
	if sharedDB.t != t {
		sharedDB.t, sharedDB.db = t, newDB(t)
		fill(t, sharedDB.db, "x")
	}
	return newHouse(t, map[tenant.ID]*tsdb.DB{alice: sharedDB.db}, t0+hour, 10*minute)
}

// Blocks that recent data has searched are not searched again, and recent data
// is asked first.
func TestHeldBlocksAreSkipped(t *testing.T) {
	t.Parallel()
	h := testHouse(t)
	h.recent.held = []ulid.ULID{ulid.MustNew(1, nil), ulid.MustNew(2, nil)}
	ctx := tenant.WithID(t.Context(), alice)

	q, err := h.Queryable().Querier(t0, t0+hour)
	require.NoError(t, err)
	require.True(t, q.Select(ctx, false, nil, equal("job", "a")).Next())
	require.Equal(t, h.recent.held, h.stored.skip)
	require.NoError(t, q.Close())

	h.stored.skip = nil
	cq, err := h.Queryable().ChunkQuerier(t0, t0+hour)
	require.NoError(t, err)
	require.True(t, cq.Select(ctx, false, nil, equal("job", "a")).Next())
	require.Equal(t, h.recent.held, h.stored.skip)
	require.NoError(t, cq.Close())
	h.allClosed(t)
}

// A sample that both have is there once.
func TestOverlapIsMergedOnce(t *testing.T) {
	t.Parallel()
	h := testHouse(t)
	ctx := tenant.WithID(t.Context(), alice)
	for cut := int64(-1); cut <= 5; cut++ {
		h.recent.mint, h.stored.maxt = t0+cut*20*minute, t0+cut*20*minute+25*minute
		q, err := h.Queryable().Querier(t0, t0+2*hour)
		require.NoError(t, err)
		set := q.Select(ctx, true, nil, equal("__name__", "hist"))
		require.True(t, set.Next())
		it := set.At().Iterator(nil)
		want := t0
		for it.Next() != chunkenc.ValNone {
			require.Equal(t, want, it.AtT())
			want += minute / 2
		}
		require.NoError(t, it.Err())
		require.Equal(t, t0+2*hour+minute/2, want)
		require.False(t, set.Next())
		require.NoError(t, q.Close())
	}
	h.allClosed(t)
}

// Selectors of one query that read the same time share what is opened, others
// open no more than they need.
func TestSelectorsShareAndNarrow(t *testing.T) {
	t.Parallel()
	h := testHouse(t)
	at := t0 + 90*minute
	w := h.do(alice, request{path: instant, form: params("query", "up + up - requests_total", "time", secs(at))})
	require.Equal(t, 200, w.Code)
	require.Equal(t, 1, h.recent.opens)
	require.Zero(t, h.stored.opens, "nothing stored is that new")
	require.Equal(t, [2]int64{at - 5*minute + 1, at}, h.recent.asked)

	w = h.do(alice, request{path: instant, form: params("query", "up - up offset 1h", "time", secs(at))})
	require.Equal(t, 200, w.Code)
	require.Equal(t, 2, h.recent.opens, "each its own five minutes")
	require.Equal(t, 1, h.stored.opens)
	require.Equal(t, [2]int64{at - hour - 5*minute + 1, at - hour}, h.stored.asked)

	q, err := h.Queryable().Querier(t0, at)
	require.NoError(t, err)
	ctx := tenant.WithID(t.Context(), alice)
	require.False(t, q.Select(ctx, false, &storage.SelectHints{Start: at + 1, End: at + 2}, equal("job", "a")).Next())
	require.True(t, q.Select(ctx, false, &storage.SelectHints{}, equal("job", "a")).Next(), "hints without times")
	require.Equal(t, [2]int64{t0, at}, h.recent.asked)
	require.NoError(t, q.Close())
	require.ErrorIs(t, q.Select(ctx, false, nil, equal("job", "a")).Err(), errClosed)
	h.allClosed(t)
}

// Tenants with equal series, asking at once, each see their own only.
func TestTenantsNeverMix(t *testing.T) {
	t.Parallel()
	dbs := map[tenant.ID]*tsdb.DB{}
	for _, id := range []tenant.ID{alice, bob} {
		dbs[id] = newDB(t)
		fill(t, dbs[id], string(id))
	}
	h := newHouse(t, dbs, t0+hour, 10*minute)
	asks := []request{
		{path: instant, form: params("query", `{job=~".+"}`, "time", secs(t0+hour))},
		{path: instant, form: params("query", `count by (tenant) ({job=~".+"})`, "time", secs(t0+hour))},
		{path: ranged, form: params("query", "sum by (tenant) (rate(requests_total[5m]))", "start", secs(t0), "end", secs(t0+2*hour), "step", "60")},
		{path: "/series", form: params("match[]", `{job=~".+"}`)},
		{path: "/label/tenant/values"},
		{path: "/query_exemplars", form: params("query", "requests_total")},
	}
	var g errgroup.Group
	for worker := range 8 {
		id, other := alice, bob
		if worker%2 == 0 {
			id, other = bob, alice
		}
		g.Go(func() error {
			for range 15 {
				for _, ask := range asks {
					w := h.do(id, ask)
					if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, string(id)) || strings.Contains(body, string(other)) {
						return fmt.Errorf("%s as %s: %d %s", ask, id, w.Code, body)
					}
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	h.allClosed(t)
}

func BenchmarkGuardedIterator(b *testing.B) {
	chk := chunkenc.NewXORChunk()
	app, err := chk.Appender()
	require.NoError(b, err)
	for i := range 120 {
		app.Append(0, int64(i)*15_000, float64(i*3%17))
	}
	run := func(b *testing.B, it chunkenc.Iterator, reset func()) {
		for b.Loop() {
			reset()
			for it.Next() != chunkenc.ValNone {
				it.At()
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/120, "ns/sample")
	}
	b.Run("plain", func(b *testing.B) {
		it := chk.Iterator(nil)
		run(b, it, func() { it = chk.Iterator(it) })
	})
	b.Run("guarded", func(b *testing.B) {
		it := &guardedIterator{Iterator: chk.Iterator(nil)}
		run(b, it, func() { it.Iterator = chk.Iterator(it.Iterator) })
	})
}

// BenchmarkQuery is what the layers around the engine cost one small query.
func BenchmarkQuery(b *testing.B) {
	db := newDB(b)
	fill(b, db, "x")
	h := newHouse(b, map[tenant.ID]*tsdb.DB{alice: db}, t0, 0)
	plain, ours := plainEngine(), asTenant{h.Engine(), alice}
	end := time.UnixMilli(t0 + 2*hour)
	for name, run := range map[string]func() error{
		"plain": func() error {
			q, err := plain.NewRangeQuery(b.Context(), db, nil, "sum(rate(requests_total[5m]))", end.Add(-time.Hour), end, time.Minute)
			if err != nil {
				return err
			}
			defer q.Close()
			return q.Exec(b.Context()).Err
		},
		"hearth": func() error {
			q, err := ours.NewRangeQuery(b.Context(), h.Queryable(), nil, "sum(rate(requests_total[5m]))", end.Add(-time.Hour), end, time.Minute)
			if err != nil {
				return err
			}
			defer q.Close()
			return q.Exec(b.Context()).Err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, run())
			}
		})
	}
}
