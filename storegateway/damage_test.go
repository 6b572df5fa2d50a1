package storegateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// oneBlock uploads a block, and returns its key and what a query for all
// series answers.
func oneBlock(tb testing.TB, b *spy, o blockOptions) (blockKey, []string) {
	tb.Helper()
	dir := makeBlock(tb, tb.TempDir(), o)
	home := bucket.TenantHome(string(me))
	upload(tb, b, home, dir)
	return blockKey{home, blockID(tb, dir)}, oracle(tb, []*tsdb.Block{openOracle(tb, dir)}, 0, 1000*step, all())
}

func queryAll(tb testing.TB, g *Gateway) ([]string, error) {
	tb.Helper()
	return query(tb, g, me, 0, 1000*step, all())
}

func requireUnavailable(tb testing.TB, err error, id string) {
	tb.Helper()
	require.Error(tb, err)
	var ue *wire.UserError
	require.ErrorAs(tb, err, &ue)
	require.Equal(tb, wire.Unavailable, ue.Kind)
	require.Equal(tb, id, ue.ID)
}

var small = blockOptions{series: 40, samples: 130, segmentSize: 8 << 10}

func TestDamageInTheBucketFailsTheQuery(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, path func(...string) string){
		"index cut short": func(t *testing.T, path func(...string) string) {
			require.NoError(t, os.Truncate(path("index"), 500))
		},
		"index with a wrong table of contents": func(t *testing.T, path func(...string) string) {
			flip(t, path("index"), -20)
		},
		"index with a wrong series": func(t *testing.T, path func(...string) string) {
			ix, err := os.ReadFile(path("index"))
			require.NoError(t, err)
			flip(t, path("index"), int64(len(ix)/3))
		},
		"wrong meta.json": func(t *testing.T, path func(...string) string) {
			require.NoError(t, os.WriteFile(path("meta.json"), []byte("{"), 0o666))
		},
		"no chunk segment": func(t *testing.T, path func(...string) string) {
			require.NoError(t, os.Remove(path("chunks", "000002")))
		},
		"chunk segment cut short": func(t *testing.T, path func(...string) string) {
			require.NoError(t, os.Truncate(path("chunks", "000002"), 1000))
		},
		"wrong byte in a chunk": func(t *testing.T, path func(...string) string) {
			flip(t, path("chunks", "000001"), 40)
		},
		"wrong length of a chunk": func(t *testing.T, path func(...string) string) {
			flip(t, path("chunks", "000001"), 8)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newSpy(t)
			key, _ := oneBlock(t, b, small)
			damage(t, func(names ...string) string { return b.path(bucket.BlockKey(key.home, key.id, names...)) })
			g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
			_, err := queryAll(t, g)
			requireUnavailable(t, err, "err-store-block-unavailable")
			_, err = queryAll(t, g)
			requireUnavailable(t, err, "err-store-block-unavailable")
		})
	}
}

func TestDamageOnLocalDiskHeals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(t *testing.T, local, cache string)
		failed bool // the query that finds it fails, the next one is right
	}{
		"table of contents": {damage: func(t *testing.T, local, _ string) { flip(t, filepath.Join(local, "index"), -20) }},
		"index cut short": {damage: func(t *testing.T, local, _ string) {
			require.NoError(t, os.Truncate(filepath.Join(local, "index"), 600))
		}},
		"no index": {damage: func(t *testing.T, local, _ string) { require.NoError(t, os.Remove(filepath.Join(local, "index"))) }},
		"meta.json": {damage: func(t *testing.T, local, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(local, "meta.json"), nil, 0o666))
		}},
		"segments.json": {damage: func(t *testing.T, local, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(local, segmentsFile), []byte("x"), 0o666))
		}},
		"series entry": {damage: func(t *testing.T, local, _ string) {
			ix, err := os.ReadFile(filepath.Join(local, "index"))
			require.NoError(t, err)
			flip(t, filepath.Join(local, "index"), int64(len(ix)/3))
		}, failed: true},
		"cached page":        {damage: func(t *testing.T, _, cache string) { flip(t, filepath.Join(cache, pagesName), 100) }},
		"head of a page":     {damage: func(t *testing.T, _, cache string) { flip(t, filepath.Join(cache, headsName), headSize+3) }},
		"magic of the heads": {damage: func(t *testing.T, _, cache string) { flip(t, filepath.Join(cache, headsName), 0) }},
		"no pages": {damage: func(t *testing.T, _, cache string) {
			require.NoError(t, os.Truncate(filepath.Join(cache, pagesName), 0))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newSpy(t)
			key, want := oneBlock(t, b, small)
			data := t.TempDir()
			g := started(t, smallConfig(), data, b, tenant.DefaultLimits())
			got, err := queryAll(t, g)
			require.NoError(t, err)
			require.Equal(t, want, got)
			stop(t, g)

			c.damage(t, filepath.Join(data, "storegateway", "blocks", key.path()), filepath.Join(data, "storegateway", "chunks"))
			g = started(t, smallConfig(), data, b, tenant.DefaultLimits())
			got, err = queryAll(t, g)
			if c.failed {
				requireUnavailable(t, err, "err-store-block-unavailable")
				got, err = queryAll(t, g)
			}
			require.NoError(t, err)
			require.Equal(t, want, got)
			entries, err := os.ReadDir(filepath.Join(data, "storegateway", "tmp"))
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
}

func TestBlockThatIsGone(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	ctx := context.Background()
	key, _ := oneBlock(t, b, small)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	q, err := openAll(t, g, me, 0, 1000*step)
	require.NoError(t, err)
	require.NoError(t, bucket.DeleteBlock(ctx, b, key.home, key.id))

	// Its chunks are gone while its index is on disk.
	_, err = dump(q.Select(ctx, true, nil, all()), false)
	requireUnavailable(t, err, "err-store-block-unavailable")
	require.NoError(t, q.Close())

	other := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	_, err = other.Querier(ctx, me, 0, 1000*step, wire.Blocks{Own: []ulid.ULID{key.id}})
	var ue *wire.UserError
	require.ErrorAs(t, err, &ue)
	require.Equal(t, wire.NotFound, ue.Kind)
	require.Equal(t, "err-store-block-gone", ue.ID)
}

func TestBucketThatFailsForAWhile(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	_, want := oneBlock(t, b, small)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	away := errors.New("bucket is away")
	b.setHook(func(op string, _ bucket.Key) error {
		if op == "range" {
			return away
		}
		return nil
	})
	_, err := queryAll(t, g)
	requireUnavailable(t, err, "err-store-block-unavailable")
	b.setHook(nil)
	got, err := queryAll(t, g)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestConcurrentQueriesWithTinyCaches(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	var blocks []*tsdb.Block
	for i := range 5 {
		dir := makeBlock(t, t.TempDir(), blockOptions{series: 150, samples: 130, start: int64(i) * 100 * step, segmentSize: 70 << 10})
		upload(t, b, bucket.TenantHome(string(me)), dir)
		blocks = append(blocks, openOracle(t, dir))
	}
	cfg := smallConfig()
	cfg.MaxIndexDisk, cfg.ChunkCacheMemory, cfg.ChunkCacheDisk = 1, 2*pageSize, minPageFile
	data := t.TempDir()
	g := started(t, cfg, data, b, tenant.DefaultLimits())

	var wg sync.WaitGroup
	for w := range 6 {
		rnd := rand.New(rand.NewPCG(3, uint64(w)))
		wg.Go(func() {
			for range 6 {
				minT := rnd.Int64N(500 * step)
				maxT := minT + rnd.Int64N(200*step)
				ms := randomMatchers(rnd)
				got, err := query(t, g, me, minT, maxT, ms...)
				if err != nil {
					t.Error(err)
					return
				}
				if want := oracle(t, blocks, minT, maxT, ms...); !equal(want, got) {
					t.Errorf("%s from %d to %d: got %d lines, want %d", describe(ms), minT, maxT, len(got), len(want))
				}
			}
		})
	}
	wg.Wait()

	// Nothing is held, so the budget holds.
	g.store.mu.Lock()
	require.LessOrEqual(t, g.store.disk, cfg.MaxIndexDisk)
	g.store.mu.Unlock()
	left, err := filepath.Glob(filepath.Join(data, "storegateway", "blocks", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
	g.pages.mu.Lock()
	defer g.pages.mu.Unlock()
	require.LessOrEqual(t, g.pages.memory.bytes, cfg.ChunkCacheMemory)
	require.LessOrEqual(t, g.pages.disk.bytes(), cfg.ChunkCacheDisk)
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestStoppedGatewaySaysSo(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	oneBlock(t, b, small)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	q, err := g.Querier(context.Background(), me, 0, 1000*step, blocksOf(t, g, me, 0, 1000*step))
	require.NoError(t, err)
	stop(t, g)
	_, err = queryAll(t, g)
	requireUnavailable(t, err, "err-store-not-running")
	_, err = dump(q.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchEqual, "job", "job-1")), false)
	requireUnavailable(t, err, "err-store-not-running")
	require.NoError(t, q.Close())
}

func TestLeftoversOfACrashAreRemoved(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	_, want := oneBlock(t, b, small)
	data := t.TempDir()
	half := filepath.Join(data, "storegateway", "tmp", "1", "chunks")
	require.NoError(t, os.MkdirAll(half, 0o777))
	odd := filepath.Join(data, "storegateway", "blocks", "me", "no-block")
	require.NoError(t, os.MkdirAll(odd, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(odd, segmentsFile), nil, 0o666))
	g := started(t, smallConfig(), data, b, tenant.DefaultLimits())
	require.NoDirExists(t, half)
	require.NoDirExists(t, odd)
	got, err := queryAll(t, g)
	require.NoError(t, err)
	require.Equal(t, want, got)
}
