package bucket

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"
)

// A query takes the hidden label off each series that it reads.
func TestSplitPoolLabelsCopiesNothing(t *testing.T) {
	var b labels.ScratchBuilder
	pooled := PoolLabels(&b, "a", func(b *labels.ScratchBuilder) { b.Add("__name__", "up"); b.Add("job", "x") })
	require.Zero(t, testing.AllocsPerRun(100, func() { SplitPoolLabels(pooled) }))
}

// A pooled store seen through PoolQuerier answers for each tenant as a store
// that holds this tenant alone, whatever is asked.
func TestPoolQuerierEqualsAStoreOfOnesOwn(t *testing.T) {
	ctx := context.Background()
	tenants := []string{"a", "a1", "b"}
	pool := openTSDB(t)
	alone := map[string]*tsdb.DB{}
	for _, id := range append(slices.Clone(tenants), "nobody") {
		alone[id] = openTSDB(t)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	var b labels.ScratchBuilder
	for range 300 {
		id := tenants[rnd.IntN(len(tenants))]
		own := randomLabels(rnd)
		v := rnd.Float64()
		pooled := PoolLabels(&b, id, func(b *labels.ScratchBuilder) {
			own.Range(func(l labels.Label) { b.Add(l.Name, l.Value) })
		})
		gotID, gotOwn := SplitPoolLabels(pooled)
		require.Equal(t, id, gotID)
		require.True(t, labels.Equal(own, gotOwn))
		for db, ls := range map[*tsdb.DB]labels.Labels{pool: pooled, alone[id]: own} {
			app := db.Appender(ctx)
			if _, err := app.Append(0, ls, 1000, v); err != nil {
				require.ErrorIs(t, err, storage.ErrDuplicateSampleForTimestamp)
				require.NoError(t, app.Rollback())
				continue
			}
			require.NoError(t, app.Commit())
		}
	}
	for range 400 {
		ms := randomMatchers(rnd)
		for _, id := range append(slices.Clone(tenants), "nobody") {
			q, err := pool.Querier(0, 2000)
			require.NoError(t, err)
			cq, err := pool.ChunkQuerier(0, 2000)
			require.NoError(t, err)
			want, err := alone[id].Querier(0, 2000)
			require.NoError(t, err)
			wantC, err := alone[id].ChunkQuerier(0, 2000)
			require.NoError(t, err)
			got, gotC := PoolQuerier(q, id), PoolChunkQuerier(cq, id)
			require.Equal(t, readSeries(t, want, ms), readSeries(t, got, ms), "%s %v", id, ms)
			require.Equal(t, readChunks(t, wantC, ms), readChunks(t, gotC, ms), "%s %v", id, ms)
			for _, pair := range [][2]storage.LabelQuerier{{want, got}, {wantC, gotC}} {
				w, _, err := pair[0].LabelNames(ctx, nil, ms...)
				require.NoError(t, err)
				g, _, err := pair[1].LabelNames(ctx, nil, ms...)
				require.NoError(t, err)
				require.ElementsMatch(t, w, g, "%s %v", id, ms)
				w, _, err = pair[0].LabelValues(ctx, "x", nil, ms...)
				require.NoError(t, err)
				g, _, err = pair[1].LabelValues(ctx, "x", nil, ms...)
				require.NoError(t, err)
				require.ElementsMatch(t, w, g, "%s %v", id, ms)
			}
			for _, c := range []interface{ Close() error }{got, gotC, want, wantC} {
				require.NoError(t, c.Close())
			}
		}
	}
}

// A limit on series is not applied before all matchers are.
func TestPoolQuerierLimit(t *testing.T) {
	db := openTSDB(t)
	app := db.Appender(context.Background())
	for i := range 20 {
		_, err := app.Append(0, labels.FromStrings(PoolLabel, "a", "x", fmt.Sprint(i)), 1000, 1)
		require.NoError(t, err)
	}
	require.NoError(t, app.Commit())
	q, err := db.Querier(0, 2000)
	require.NoError(t, err)
	p := PoolQuerier(q, "a")
	defer p.Close()
	set := p.Select(context.Background(), true, &storage.SelectHints{Start: 0, End: 2000, Limit: 1}, labels.MustNewMatcher(labels.MatchRegexp, "x", "1.+"))
	n := 0
	for set.Next() {
		n++
	}
	require.Equal(t, 10, n)
	values, _, err := p.LabelValues(context.Background(), "x", &storage.LabelHints{Limit: 3})
	require.NoError(t, err)
	require.Len(t, values, 3)
}

func openTSDB(t testing.TB) *tsdb.DB {
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func randomLabels(rnd *rand.Rand) labels.Labels {
	b := labels.NewBuilder(labels.FromStrings("__name__", pick(rnd, "m", "n", "o")))
	for _, name := range []string{"A", "x", "y", "_z"} {
		if rnd.IntN(2) == 0 {
			b.Set(name, pick(rnd, "1", "2", "10", "11"))
		}
	}
	return b.Labels()
}

func randomMatchers(rnd *rand.Rand) (ms []*labels.Matcher) {
	for range 1 + rnd.IntN(3) {
		kind := labels.MatchType(rnd.IntN(4))
		name := pick(rnd, "__name__", "A", "x", "y", "_z", "absent", PoolLabel)
		value := pick(rnd, "", "1", "2", "m", "a", "10")
		if kind == labels.MatchRegexp || kind == labels.MatchNotRegexp {
			value = pick(rnd, "", ".*", ".+", "1.*", "1|2", "m|n", "|1", "a|b")
		}
		ms = append(ms, labels.MustNewMatcher(kind, name, value))
	}
	return ms
}

func pick(rnd *rand.Rand, from ...string) string { return from[rnd.IntN(len(from))] }

func readSeries(t *testing.T, q storage.Querier, ms []*labels.Matcher) (out []string) {
	set := q.Select(context.Background(), true, nil, slices.Clone(ms)...)
	for set.Next() {
		line := set.At().Labels().String()
		for it := set.At().Iterator(nil); it.Next() == chunkenc.ValFloat; {
			at, v := it.At()
			line += fmt.Sprint(" ", at, ":", v)
		}
		out = append(out, line)
	}
	require.NoError(t, set.Err())
	return out
}

func readChunks(t *testing.T, q storage.ChunkQuerier, ms []*labels.Matcher) (out []string) {
	set := q.Select(context.Background(), true, nil, slices.Clone(ms)...)
	for set.Next() {
		line := set.At().Labels().String()
		for it := set.At().Iterator(nil); it.Next(); {
			line += fmt.Sprintf(" %x", it.At().Chunk.Bytes())
		}
		out = append(out, line)
	}
	require.NoError(t, set.Err())
	return out
}

// What is in the bucket was split by these numbers.
func TestPoolShardStaysAsItIs(t *testing.T) {
	t.Parallel()
	var got []int
	for _, name := range []string{"a", "team-b", "12345", "z"} {
		got = append(got, PoolShard(name, 16), PoolShard(name, 3), PoolShard(name, 1))
	}
	require.Equal(t, []int{11, 2, 0, 0, 1, 0, 6, 0, 0, 8, 2, 0}, got)
}

// BenchmarkPoolQuerier is what finding a tenant's series costs in a pool, beside
// a store that holds this tenant alone.
func BenchmarkPoolQuerier(b *testing.B) {
	const series = 2000
	pool, own := openTSDB(b), openTSDB(b)
	var builder labels.ScratchBuilder
	for db, pooled := range map[*tsdb.DB]bool{pool: true, own: false} {
		app := db.Appender(b.Context())
		for n := range series {
			ls := labels.FromStrings("__name__", "http_requests_total", "instance", fmt.Sprint(n), "job", "api", "namespace", "default", "path", "/api/v1/query")
			if pooled {
				ls = PoolLabels(&builder, "tenant", func(b *labels.ScratchBuilder) {
					ls.Range(func(l labels.Label) { b.Add(l.Name, l.Value) })
				})
			}
			_, err := app.Append(0, ls, 1000, 1)
			require.NoError(b, err)
		}
		require.NoError(b, app.Commit())
	}
	for _, from := range []string{"own", "pool"} {
		b.Run(from, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				db := own
				if from == "pool" {
					db = pool
				}
				q, err := db.Querier(0, 2000)
				require.NoError(b, err)
				if from == "pool" {
					q = PoolQuerier(q, "tenant")
				}
				set := q.Select(b.Context(), true, nil, labels.MustNewMatcher(labels.MatchEqual, "__name__", "http_requests_total"))
				n := 0
				for set.Next() {
					_ = set.At().Labels()
					n++
				}
				require.NoError(b, set.Err())
				require.Equal(b, series, n)
				require.NoError(b, q.Close())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/series, "ns/series")
		})
	}
}
