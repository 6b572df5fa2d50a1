package storegateway

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/tombstones"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

const me = tenant.ID("me")

// twoBlocks uploads two blocks that overlap in time, the first with chunks in
// many segments.
func twoBlocks(tb testing.TB, b bucket.Bucket) []*tsdb.Block {
	tb.Helper()
	one := makeBlock(tb, tb.TempDir(), blockOptions{series: 250, samples: 250, start: 0, segmentSize: 70 << 10})
	two := makeBlock(tb, tb.TempDir(), blockOptions{series: 200, samples: 150, start: 230 * step})
	segments, err := os.ReadDir(filepath.Join(one, "chunks"))
	require.NoError(tb, err)
	require.Greater(tb, len(segments), 3)
	upload(tb, b, bucket.TenantHome(string(me)), one)
	upload(tb, b, bucket.TenantHome(string(me)), two)
	return []*tsdb.Block{openOracle(tb, one), openOracle(tb, two)}
}

// randomRange is a range of time over, in or beside the blocks.
func randomRange(rnd *rand.Rand) (minT, maxT int64) {
	minT = rnd.Int64N(420*step) - 20*step
	return minT, minT + rnd.Int64N(250*step)
}

func TestAnswersEqualPrometheus(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	blocks := twoBlocks(t, b)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	rnd := rand.New(rand.NewPCG(7, 7))
	ctx := context.Background()
	hits := 0
	for range 50 {
		ms := randomMatchers(rnd)
		minT, maxT := randomRange(rnd)
		hints := &storage.SelectHints{Start: minT, End: maxT, DisableTrimming: rnd.IntN(4) == 0}
		if rnd.IntN(4) == 0 {
			hints.ShardCount, hints.ShardIndex = 3, rnd.Uint64N(3)
		}
		if rnd.IntN(6) == 0 {
			hints.Func = "series"
		}
		want := oracleQuerier(t, blocks, minT, maxT)
		got, err := g.Querier(ctx, me, minT, maxT, blocksOf(t, g, me, minT, maxT))
		require.NoError(t, err)
		what := describe(ms)

		if hints.Func == "series" {
			w, g := want.Select(ctx, true, hints, slices.Clone(ms)...), got.Select(ctx, true, hints, ms...)
			for w.Next() {
				require.True(t, g.Next(), what)
				require.Equal(t, w.At().Labels(), g.At().Labels(), what)
			}
			require.False(t, g.Next(), what)
			require.NoError(t, g.Err())
		} else {
			w, err := dump(want.Select(ctx, true, hints, slices.Clone(ms)...), true)
			require.NoError(t, err)
			g, err := dump(got.Select(ctx, true, hints, ms...), rnd.IntN(2) == 0)
			require.NoError(t, err)
			require.Equal(t, w, g, what)
			hits += len(w)
		}
		compareLabels(t, want, got, ms, rnd)
		require.NoError(t, want.Close())
		require.NoError(t, got.Close())
	}
	require.Positive(t, hits)
}

func compareLabels(t *testing.T, want, got storage.Querier, ms []*labels.Matcher, rnd *rand.Rand) {
	t.Helper()
	ctx := context.Background()
	hints := &storage.LabelHints{Limit: rnd.IntN(5) * rnd.IntN(3)}
	for _, name := range []string{"__name__", "instance", "zone", "absent"} {
		w, _, err := want.LabelValues(ctx, name, hints, slices.Clone(ms)...)
		require.NoError(t, err)
		g, _, err := got.LabelValues(ctx, name, hints, ms...)
		require.NoError(t, err)
		require.ElementsMatch(t, w, g)
	}
	w, _, err := want.LabelNames(ctx, hints, slices.Clone(ms)...)
	require.NoError(t, err)
	g, _, err := got.LabelNames(ctx, hints, ms...)
	require.NoError(t, err)
	require.ElementsMatch(t, w, g)
}

func TestChunksEqualPrometheus(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	blocks := twoBlocks(t, b)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	rnd := rand.New(rand.NewPCG(8, 8))
	ctx := context.Background()
	for range 20 {
		ms := randomMatchers(rnd)
		minT, maxT := randomRange(rnd)
		var qs []storage.ChunkQuerier
		for _, b := range blocks {
			q, err := tsdb.NewBlockChunkQuerier(b, minT, maxT)
			require.NoError(t, err)
			qs = append(qs, q)
		}
		want := storage.NewMergeChunkQuerier(qs, nil, storage.NewCompactingChunkSeriesMerger(storage.ChainedSeriesMerge))
		w, err := dumpChunks(want.Select(ctx, true, nil, slices.Clone(ms)...))
		require.NoError(t, err)
		got, err := g.ChunkQuerier(ctx, me, minT, maxT, blocksOf(t, g, me, minT, maxT))
		require.NoError(t, err)
		have, err := dumpChunks(got.Select(ctx, true, nil, ms...))
		require.NoError(t, err)
		require.Equal(t, w, have, describe(ms))
		require.NoError(t, want.Close())
		require.NoError(t, got.Close())
	}
}

func TestTombstonesAreHonoured(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	dir := makeBlock(t, t.TempDir(), blockOptions{series: 50, samples: 200})
	block := openOracle(t, dir)
	m := labels.MustNewMatcher(labels.MatchEqual, "job", "job-2")
	require.NoError(t, block.Delete(context.Background(), 50*step, 120*step, m))
	upload(t, b, bucket.TenantHome(string(me)), dir)
	reread, _, err := tombstones.ReadTombstones(dir)
	require.NoError(t, err)
	require.Positive(t, reread.Total())

	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	got, err := query(t, g, me, 0, 200*step, all())
	require.NoError(t, err)
	require.Equal(t, oracle(t, []*tsdb.Block{block}, 0, 200*step, all()), got)
}

func TestPooledBlocksShowOneTenantOnly(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	tenants := []string{"me", "me2", "other", "z"}
	o := blockOptions{series: 120, samples: 150, pool: tenants}
	pooled := makeBlock(t, t.TempDir(), o)
	upload(t, b, bucket.PoolHome, pooled)
	own := makeBlock(t, t.TempDir(), blockOptions{series: 60, samples: 150, start: 200 * step})
	upload(t, b, bucket.TenantHome("me"), own)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())

	inPool, ofOwn := openOracle(t, pooled), openOracle(t, own)
	rnd := rand.New(rand.NewPCG(9, 9))
	for range 40 {
		id := tenants[rnd.IntN(len(tenants))]
		ms := randomMatchers(rnd)
		minT, maxT := randomRange(rnd)
		qs := []storage.Querier{bucket.PoolQuerier(oracleQuerier(t, []*tsdb.Block{inPool}, minT, maxT), id)}
		if id == "me" {
			qs = append(qs, oracleQuerier(t, []*tsdb.Block{ofOwn}, minT, maxT))
		}
		want := storage.NewMergeQuerier(qs, nil, storage.ChainedSeriesMerge)
		w, err := dump(want.Select(context.Background(), true, &storage.SelectHints{Start: minT, End: maxT}, slices.Clone(ms)...), true)
		require.NoError(t, err)
		require.NoError(t, want.Close())
		got, err := query(t, g, tenant.ID(id), minT, maxT, ms...)
		require.NoError(t, err)
		require.Equal(t, w, got, describe(ms))
	}

	none, err := query(t, g, "stranger", 0, 1000*step, all())
	require.NoError(t, err)
	require.Empty(t, none)
	_, held, err := g.openBlocks(t.Context(), "stranger", 0, 1000*step, wire.Blocks{Pooled: []ulid.ULID{inPool.Meta().ULID}})
	require.NoError(t, err)
	require.Empty(t, held, "it has nothing there")
	for _, b := range g.store.blocks {
		require.Zero(t, b.refs, b.key)
	}

	ctx := context.Background()
	for _, id := range tenants {
		q, err := g.Querier(ctx, tenant.ID(id), 0, 1000*step, blocksOf(t, g, tenant.ID(id), 0, 1000*step))
		require.NoError(t, err)
		names, _, err := q.LabelNames(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"__name__", "instance", "job", "zone"}, names)
		values, _, err := q.LabelValues(ctx, bucket.PoolLabel, nil)
		require.NoError(t, err)
		require.Empty(t, values)
		require.NoError(t, q.Close())
		cq, err := g.ChunkQuerier(ctx, tenant.ID(id), 0, 1000*step, blocksOf(t, g, tenant.ID(id), 0, 1000*step))
		require.NoError(t, err)
		set := cq.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, bucket.PoolLabel, "other"))
		require.False(t, set.Next())
		require.NoError(t, set.Err())
		require.NoError(t, cq.Close())
	}
}

func TestOnlyBlocksThatAreNamedAreRead(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	blocks := twoBlocks(t, b)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	ctx, hints := context.Background(), &storage.SelectHints{End: 1000 * step}
	for n, want := range [][]*tsdb.Block{{}, blocks[:1], blocks[1:], blocks} {
		var named wire.Blocks
		for _, block := range want {
			named.Own = append(named.Own, block.Meta().ULID)
		}
		q, err := g.Querier(ctx, me, 0, 1000*step, named)
		require.NoError(t, err)
		got, err := dump(q.Select(ctx, true, hints, all()), true)
		require.NoError(t, err)
		require.Equal(t, oracle(t, want, 0, 1000*step, all()), got, n)
		require.NoError(t, q.Close())
	}

	// A block of another tenant, whoever's it is called, is not in one's home.
	for _, named := range []wire.Blocks{{Own: []ulid.ULID{blocks[0].Meta().ULID}}, {Pooled: []ulid.ULID{blocks[0].Meta().ULID}}} {
		_, err := g.Querier(ctx, "stranger", 0, 1000*step, named)
		require.Equal(t, wire.NotFound, wire.KindOf(err))
	}
}

func TestRequestsOfColdAndWarmQueries(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	dir := makeBlock(t, t.TempDir(), blockOptions{series: 2000, samples: 240, floatsOnly: true})
	upload(t, b, bucket.TenantHome(string(me)), dir)
	want := oracle(t, []*tsdb.Block{openOracle(t, dir)}, 0, 240*step, all())
	info, err := os.Stat(filepath.Join(dir, "chunks", "000001"))
	require.NoError(t, err)
	cfg, data := smallConfig(), t.TempDir()
	g := started(t, cfg, data, b, tenant.DefaultLimits())
	b.taken()

	got, err := query(t, g, me, 0, 240*step, all())
	require.NoError(t, err)
	require.Equal(t, want, got)
	cold := b.taken()
	require.Equal(t, 2, cold["get"], "meta.json and index")
	require.Zero(t, cold["list"])
	require.Zero(t, cold["stat"])
	// Range reads: of up to 2 MiB, and the first batches are smaller.
	require.LessOrEqual(t, cold["range"], int(info.Size()/(maxRunPages*pageSize))+4)
	t.Logf("cold: %v for %d bytes of chunks", cold, info.Size())

	got, err = query(t, g, me, 0, 240*step, all())
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Empty(t, b.taken(), "a warm query")

	// After a restart the indexes and the chunks are still on disk.
	stop(t, g)
	g = started(t, cfg, data, b, tenant.DefaultLimits())
	got, err = query(t, g, me, 0, 240*step, all())
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Empty(t, b.taken())

	// Labels alone need no chunks.
	g = started(t, cfg, t.TempDir(), b, tenant.DefaultLimits())
	q, err := g.Querier(context.Background(), me, 0, 240*step, blocksOf(t, g, me, 0, 240*step))
	require.NoError(t, err)
	set := q.Select(context.Background(), true, &storage.SelectHints{End: 240 * step, Func: "series"}, all())
	n := 0
	for ; set.Next(); n++ {
	}
	require.NoError(t, set.Err())
	require.Equal(t, 2000, n)
	require.NoError(t, q.Close())
	require.Zero(t, b.taken()["range"])
}

func TestPooledSelectFetchesNoOthersChunks(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	dir := makeBlock(t, t.TempDir(), blockOptions{series: 1000, samples: 480, pool: []string{"a", "b", "c"}, floatsOnly: true})
	upload(t, b, bucket.PoolHome, dir)
	limits := tenant.DefaultLimits()
	limits.MaxChunkBytes = 20_000 // some ten series
	g := started(t, smallConfig(), t.TempDir(), b, limits)
	got, err := query(t, g, "b", 0, 480*step, labels.MustNewMatcher(labels.MatchRegexp, "instance", "host-0001[0-3]"), all())
	require.NoError(t, err)
	require.Len(t, got, 4*481)
}

func TestChunkBytesAreLimited(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	dir := makeBlock(t, t.TempDir(), blockOptions{series: 400, samples: 240, floatsOnly: true})
	upload(t, b, bucket.TenantHome(string(me)), dir)
	info, err := os.Stat(filepath.Join(dir, "chunks", "000001"))
	require.NoError(t, err)

	try := func(limit int) error {
		limits := tenant.DefaultLimits()
		limits.MaxChunkBytes = limit
		g := started(t, smallConfig(), t.TempDir(), b, limits)
		ctx := context.Background()
		cq, err := g.ChunkQuerier(ctx, me, 0, 240*step, blocksOf(t, g, me, 0, 240*step))
		require.NoError(t, err)
		_, chunkErr := dumpChunks(cq.Select(ctx, true, nil, all()))
		require.NoError(t, cq.Close())
		_, err = query(t, g, me, 0, 240*step, all())
		require.Equal(t, err == nil, chunkErr == nil)
		return err
	}
	require.NoError(t, try(0))
	require.NoError(t, try(int(info.Size())))
	for _, limit := range []int{1, int(info.Size()) / 2, int(info.Size()) * 95 / 100} {
		err := try(limit)
		require.Error(t, err, limit)
		require.Equal(t, wire.Limited, wire.KindOf(err))
		require.ErrorContains(t, err, "err-max-chunk-bytes")
		require.ErrorContains(t, err, "max_chunk_bytes_per_query")
	}
}

func TestAQueryThatIsGivenUpEnds(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	twoBlocks(t, b)
	release := make(chan struct{})
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	ctx, cancel := context.WithCancel(context.Background())
	b.setHook(func(op string, _ bucket.Key) error {
		if op == "range" {
			cancel()
			<-release
		}
		return nil
	})
	q, err := g.Querier(ctx, me, 0, 1000*step, blocksOf(t, g, me, 0, 1000*step))
	require.NoError(t, err)
	_, err = dump(q.Select(ctx, true, &storage.SelectHints{End: 1000 * step}, all()), true)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, q.Close())

	// The reads that it began serve the next query.
	close(release)
	b.setHook(nil)
	_, err = query(t, g, me, 0, 1000*step, all())
	require.NoError(t, err)
}
