package compactor_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
	"github.com/hearth-metrics/hearth/compactor"
	"github.com/hearth-metrics/hearth/tenant"
)

// weights is what a compactor tells, by home and tenant.
func weights(t testing.TB, c *compactor.Compactor) map[bucket.Key]map[tenant.ID]int64 {
	t.Helper()
	out := map[bucket.Key]map[tenant.ID]int64{}
	c.EachTenant(func(id tenant.ID, home bucket.Key, bytes int64) {
		if out[home] == nil {
			out[home] = map[tenant.ID]int64{}
		}
		require.NotContains(t, out[home], id)
		require.Positive(t, bytes)
		out[home][id] = bytes
	})
	return out
}

// requireWeights compares what a compactor tells with a count of all chunks of
// all blocks that readers see, and of the sizes of the files.
func (w *world) requireWeights(c *compactor.Compactor, homes ...bucket.Key) {
	w.Helper()
	got := weights(w, c)
	for _, home := range homes {
		var size int64
		for _, b := range w.live(home) {
			size += b.Size
		}
		want := map[tenant.ID]int64{}
		if size > 0 {
			want[tenant.ID(home)] = size
		}
		require.Len(w, got[home], len(want), "tenants in %s", home)
		require.Equal(w, size, got[home][tenant.ID(home)], "bytes in %s", home)
		delete(got, home)
	}
	pooled := map[tenant.ID]float64{}
	var size, slack int64
	for _, b := range w.live(bucket.PoolHome) {
		list, err := w.bucket.Stat(w.Context(), bucket.BlockKey(bucket.PoolHome, b.ID, bucket.TenantsFile))
		require.NoError(w, err)
		size += b.Size - list.Size
		slack += 8*int64(b.SegmentsNum) + 1 // the head of each segment, and what is rounded
		w.addChunks(pooled, b)
	}
	var sum int64
	require.Len(w, got[bucket.PoolHome], len(pooled))
	for id, want := range pooled {
		bytes := got[bucket.PoolHome][id]
		require.InDelta(w, want, bytes, float64(slack), "tenant %s", id)
		sum += bytes
	}
	require.Equal(w, size, sum, "all tenants have all bytes of the pool's chunks and indexes")
	delete(got, bucket.PoolHome)
	require.Empty(w, got, "other homes")
}

// addChunks adds each tenant's part of a pooled block: the bytes of its chunks,
// and of the index what its series are of all series.
func (w *world) addChunks(to map[tenant.ID]float64, entry bucket.IndexBlock) {
	w.Helper()
	block := w.fetch(bucket.PoolHome, entry.ID)
	defer block.Close()
	for name, has := range buckettest.WeighChunks(w, block, bucket.PoolLabel) {
		to[tenant.ID(name)] += float64(has.Chunks) + float64(entry.IndexSize*has.Series)/float64(entry.Series)
	}
}

// TestWeights has random blocks of random tenants, retention that ends, a
// tenant that is deleted, one that is in the pool and in a home of its own, and
// compactors that come and go: what they tell is what is there.
func TestWeights(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			split := []uint64{0, 5, 11, 30}[seed]
			var keep atomic.Int64 // of b
			limits := func(id tenant.ID) *tenant.Limits {
				if id == "b" {
					return &tenant.Limits{Retention: model.Duration(keep.Load())}
				}
				return &tenant.Limits{}
			}
			check := func() *compactor.Compactor {
				c := w.compactor(w.bucket, split, limits)
				require.NoError(t, c.Round(t.Context()))
				w.requireWeights(c, "a")
				return c
			}
			for day := range int64(3) {
				for slot := range w.rnd.Int64N(4) {
					from := dayStart(3+3*day) + slot*6*hour
					w.shipSlot(bucket.PoolHome, []tenant.ID{"a", "b", "c", tenant.ID(fmt.Sprint("t", w.rnd.IntN(4)))}, 1+w.rnd.IntN(5), from)
					w.upload("a", []series{w.randomSeries("a", int(slot), from+4*hour, from+6*hour)})
				}
				w.upload(bucket.PoolHome, only("a", dayStart(3+3*day)+23*hour)) // may be alone
				check()
			}
			w.shipSlot(bucket.PoolHome, []tenant.ID{"b", "c"}, 3, time.Now().UnixMilli()-3*hour) // not merged yet
			check()
			keep.Store(int64(5 * 24 * time.Hour))
			check()
			require.NoError(t, compactor.RequestDeletion(t.Context(), w.bucket, "a"))
			c := check()
			require.NotContains(t, weights(t, c)[bucket.PoolHome], tenant.ID("a"))
			require.Contains(t, weights(t, c)[bucket.PoolHome], tenant.ID("c"))
		})
	}
}

// TestOneCompactorTells of each home, also of one in which nothing is due, when
// compactors start, take over, and come back.
func TestOneCompactorTells(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.upload("idle", only("idle", dayStart(3)))
	w.upload(bucket.PoolHome, append(only("a", dayStart(3)), only("b", dayStart(3))...))
	owner := 0
	var all []*compactor.Compactor
	for i := range 2 {
		c := w.compactor(w.bucket, 0, forEver)
		c.ShareWork(func(string) bool { return owner == i })
		all = append(all, c)
	}
	for _, owner = range []int{0, 1, 0} {
		require.Empty(t, weights(t, all[owner]), "what it has known before is old")
		if owner == 0 {
			w.upload(bucket.PoolHome, only("c", dayStart(3)+int64(len(w.want))))
		}
		for range 2 { // in the second round of the first owner there is nothing due
			for _, c := range all {
				require.NoError(t, c.Round(t.Context()))
			}
		}
		w.requireWeights(all[owner], "idle")
		require.Empty(t, weights(t, all[1-owner]))
	}
}

// noTenants fails to read lists of tenants while it is away.
type noTenants struct {
	bucket.Bucket
	away atomic.Bool
}

func (n *noTenants) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	if n.away.Load() && key.Base() == bucket.TenantsFile {
		return nil, bucket.Object{}, errDown
	}
	return n.Bucket.Get(ctx, key)
}

// TestWeightsAreWholeOrOld: what is not known of one block says nothing of any
// tenant.
func TestWeightsAreWholeOrOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.upload(bucket.PoolHome, append(only("a", dayStart(3)), only("b", dayStart(3))...))
	flaky := &noTenants{Bucket: w.bucket}
	c := w.compactor(flaky, 0, forEver)
	require.NoError(t, c.Round(t.Context()))
	w.requireWeights(c)
	old := weights(t, c)
	flaky.away.Store(true)
	w.upload(bucket.PoolHome, only("a", dayStart(5)))
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, old, weights(t, c))
	flaky.away.Store(false)
	require.NoError(t, c.Round(t.Context()))
	w.requireWeights(c)
	require.NotEqual(t, old, weights(t, c))
}

// TestListOfNames: blocks whose list has no bytes are purged and merged as all
// are, and count from then on.
func TestListOfNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	withNames := func(all []series) {
		dir := makeBlock(t, bucket.PoolHome, all)
		var names []tenant.ID
		for _, s := range all {
			names = append(names, s.tenant)
		}
		slices.Sort(names)
		content, err := json.Marshal(names)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dir+"/"+bucket.TenantsFile, content, 0o666))
		require.NoError(t, bucket.UploadBlock(t.Context(), w.bucket, bucket.PoolHome, dir))
	}
	withNames(append(only("a", dayStart(3)), only("short", dayStart(3))...))
	withNames(only("a", dayStart(5)))
	c := w.compactor(w.bucket, 0, func(id tenant.ID) *tenant.Limits {
		if id == "short" {
			return &tenant.Limits{Retention: model.Duration(time.Hour)}
		}
		return &tenant.Limits{}
	})
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, map[string]int{"a": 2}, w.have(bucket.PoolHome))
	first := weights(t, c)[bucket.PoolHome]
	require.Len(t, first, 1, "of the block that was written again")
	w.upload(bucket.PoolHome, only("a", dayStart(5)+1))
	require.NoError(t, c.Round(t.Context()))
	w.requireWeights(c)
	require.Greater(t, weights(t, c)[bucket.PoolHome]["a"], first["a"])
}

// BenchmarkTenantsOfAYear is a start, and then a round, over a pool with a year
// of days in which all tenants are: what the lists of tenants take.
func BenchmarkTenantsOfAYear(b *testing.B) {
	for _, tenants := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint("tenants=", tenants), func(b *testing.B) {
			w := newWorld(b, 1)
			parts := tenants / 5_000
			for day := range int64(365) {
				w.listOnly(day, tenants, parts)
			}
			for b.Loop() {
				c := w.compactor(w.bucket, 0, forEver)
				runtime.GC()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				began := time.Now()
				require.NoError(b, c.Round(b.Context()))
				b.ReportMetric(time.Since(began).Seconds(), "s/start")
				began = time.Now()
				require.NoError(b, c.Round(b.Context()))
				b.ReportMetric(time.Since(began).Seconds(), "s/round")
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(365*tenants), "B/tenant-day")
				n := 0
				c.EachTenant(func(tenant.ID, bucket.Key, int64) { n++ })
				require.Equal(b, tenants, n)
			}
		})
	}
}

// listOnly lists blocks of a day, in parts, of which there is nothing but who is
// in them.
func (w *world) listOnly(day int64, tenants, parts int) {
	w.Helper()
	lists := make([]map[string]int64, parts)
	for i := range tenants {
		name := fmt.Sprintf("tenant-%06d", i)
		part := bucket.PoolShard(name, parts)
		if lists[part] == nil {
			lists[part] = map[string]int64{}
		}
		lists[part][name] = 100_000 + w.rnd.Int64N(1_000_000)
	}
	require.NoError(w, bucket.UpdateIndex(w.Context(), w.bucket, bucket.PoolHome, func(x *bucket.Index) error {
		for part, list := range lists {
			id := ulid.MustNew(ulid.Now(), rand.Reader)
			content, err := json.Marshal(list)
			require.NoError(w, err)
			put(w, w.bucket, bucket.BlockKey(bucket.PoolHome, id, bucket.TenantsFile), string(content))
			put(w, w.bucket, bucket.BlockKey(bucket.PoolHome, id, bucket.MetaFile), "{}")
			x.AddBlock(bucket.IndexBlock{ID: id, MinTime: dayStart(day + 3), MaxTime: dayStart(day + 2), CompactorShardID: bucket.ShardID(part, parts), CompactionLevel: 3})
		}
		return nil
	}))
}
