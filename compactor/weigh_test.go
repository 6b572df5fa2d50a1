package compactor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
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
		require.Equal(w, len(want), len(got[home]), "tenants in %s", home)
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

// addChunks adds each tenant's part of a pooled block: the bytes of its chunks
// on disk, and of the index what its series are of all series.
func (w *world) addChunks(to map[tenant.ID]float64, entry bucket.IndexBlock) {
	w.Helper()
	block := w.fetch(bucket.PoolHome, entry.ID)
	defer block.Close()
	index, err := block.Index()
	require.NoError(w, err)
	defer index.Close()
	data, err := block.Chunks()
	require.NoError(w, err)
	defer data.Close()
	p := tsdb.AllSortedPostings(w.Context(), index)
	for p.Next() {
		var b labels.ScratchBuilder
		var metas []chunks.Meta
		require.NoError(w, index.Series(p.At(), &b, &metas))
		id := tenant.ID(b.Labels().Get(bucket.PoolLabel))
		to[id] += float64(entry.IndexSize) / float64(entry.Series)
		for _, m := range metas {
			chunk, _, err := data.ChunkOrIterable(m)
			require.NoError(w, err)
			n := len(chunk.Bytes())
			for to[id] += 1 + float64(n) + 1 + 4; n >= 0x80; n >>= 7 { // length, encoding, checksum
				to[id]++
			}
		}
	}
	require.NoError(w, p.Err())
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
			w.shipSlot(bucket.PoolHome, []tenant.ID{"a", "b", "c"}, 3, time.Now().UnixMilli()-3*hour) // not merged yet
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
		if owner == 0 {
			w.upload(bucket.PoolHome, only("c", dayStart(3)+int64(len(w.want))))
		}
		for _, c := range all {
			require.NoError(t, c.Round(t.Context()))
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
