package bucket

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// TestTenantSizes divides random blocks, whose chunks are in many small
// segments, and compares with a count of all chunks.
func TestTenantSizes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		series := map[string]int64{}
		var all []storage.Series
		for range 1 + rnd.IntN(200) {
			name := fmt.Sprint("t", rnd.IntN(1+rnd.IntN(20)))
			var b labels.ScratchBuilder
			ls := PoolLabels(&b, name, func(b *labels.ScratchBuilder) { b.Add("n", fmt.Sprint(series[name])) })
			series[name]++
			all = append(all, storage.NewListSeries(ls, chunks.GenerateSamples(0, 1+rnd.IntN(600))))
		}
		b := smallSegments(t, all)
		got, err := TenantSizes(t.Context(), b)
		require.NoError(t, err)

		segments, err := filepath.Glob(filepath.Join(b.Dir(), ChunksDir, "*"))
		require.NoError(t, err)
		has, indexSize := buckettest.WeighChunks(t, b, PoolLabel), fileSize(t, filepath.Join(b.Dir(), IndexFile))
		require.Len(t, got, len(has))
		var sum, size int64
		for name, bytes := range got {
			want := has[name].Chunks + indexSize*has[name].Series/int64(len(all))
			require.InDelta(t, want, bytes, float64(8*len(segments)+2), "tenant %s; 8 bytes are before the chunks of each segment", name)
			sum += bytes
		}
		for _, path := range segments {
			size += fileSize(t, path)
		}
		require.Equal(t, size+indexSize, sum)
		t.Logf("%d tenants, %d series, %d segments, %d bytes", len(got), len(all), len(segments), sum)
	}
}

// smallSegments makes a block with chunk segments of 2 KiB.
func smallSegments(t *testing.T, all []storage.Series) *tsdb.Block {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	dir, err := tsdb.CreateBlock(all, t.TempDir(), 1_000_000, quiet)
	require.NoError(t, err)
	lc, err := tsdb.NewLeveledCompactorWithOptions(t.Context(), nil, quiet, []int64{1_000_000}, nil, tsdb.LeveledCompactorOptions{MaxBlockChunkSegmentSize: 2 << 10})
	require.NoError(t, err)
	out := t.TempDir()
	ids, err := lc.Compact(out, []string{dir}, nil)
	require.NoError(t, err)
	b, err := tsdb.OpenBlock(quiet, filepath.Join(out, ids[0].String()), nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Size()
}

func TestReadTenants(t *testing.T) {
	t.Parallel()
	b, err := New(DefaultConfig(), t.TempDir(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	f := func(content string, want map[string]int64) {
		t.Helper()
		id := ulid.Make()
		_, err := b.Put(t.Context(), BlockKey(PoolHome, id, TenantsFile), strings.NewReader(content), int64(len(content)), Condition{})
		require.NoError(t, err)
		got, err := ReadTenants(t.Context(), b, id)
		require.Equal(t, want == nil, err != nil, "%v", err)
		require.Equal(t, want, got)
	}
	f(`{"a":1,"b":20000000000}`, map[string]int64{"a": 1, "b": 20000000000})
	f(`["a","b"]`, map[string]int64{"a": 0, "b": 0})
	f(`["a",`, nil)
	f(`{"a":"b"}`, nil)
	f(``, nil)
	none, err := ReadTenants(t.Context(), b, ulid.Make())
	require.NoError(t, err)
	require.Nil(t, none)
}
