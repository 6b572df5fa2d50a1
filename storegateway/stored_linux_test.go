package storegateway

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

var (
	storedSeries = flag.Int("stored.series", 2000, "series of the large tenant")
	storedDays   = flag.Int("stored.days", 3, "days of data, one block each")
	storedPooled = flag.Int("stored.pooled", 200, "tenants in the pool, of five series each")
	storedStep   = flag.Duration("stored.step", time.Minute, "time between samples")
)

const day = 24 * 60 * 60 * 1000

// BenchmarkStored asks for one metric of a hundred, as the engine does, over an
// hour up to all days: cold, warm, as other members ask, and as Prometheus reads
// the same blocks from local disk. `make bench-stored` runs it at scale.
func BenchmarkStored(b *testing.B) {
	spy := newSpy(b)
	local := fillBucket(b, spy)
	debug.FreeOSMemory()
	resetPeak(b)
	cfg := DefaultConfig()
	cfg.MaxIndexDisk, cfg.ChunkCacheDisk = 4<<30, 4<<30
	end := int64(*storedDays) * day
	one := labels.MustNewMatcher(labels.MatchEqual, "__name__", "metric_42")
	for _, span := range []struct {
		name string
		ms   int64
	}{{"1h", day / 24}, {"1d", day}, {"7d", 7 * day}, {"30d", 30 * day}} {
		if span.ms > end {
			continue
		}
		minT, maxT := end-span.ms, end-1
		hints := &storage.SelectHints{Start: minT, End: maxT}
		var samples int
		read := func(q storage.Querier, err error) {
			require.NoError(b, err)
			samples = readAll(b, q.Select(context.Background(), true, hints, one))
			require.NoError(b, q.Close())
		}
		g := started(b, cfg, b.TempDir(), spy, tenant.DefaultLimits())
		blocks := blocksOf(b, g, me, minT, maxT)
		gateway := func() { read(g.Querier(context.Background(), me, minT, maxT, blocks)) }

		spy.taken()
		began := time.Now()
		gateway() // once: after it, it is warm
		took, calls := time.Since(began), spy.taken()
		b.Run(span.name+"/cold", func(b *testing.B) {
			b.ReportMetric(float64(took.Microseconds())/1000, "ms")
			b.ReportMetric(float64(calls["get"]+calls["stat"]+calls["range"]), "requests")
			b.ReportMetric(float64(samples), "samples")
		})
		measured := func(name string, f func()) {
			b.Run(name, func(b *testing.B) {
				f()
				var spent int64
				n := 0
				for b.Loop() {
					before := processorTime(b)
					f()
					spent += processorTime(b) - before
					n++
				}
				b.ReportMetric(float64(spent)/float64(n), "cpu-ns/op")
			})
		}
		measured(span.name+"/warm", gateway)
		measured(span.name+"/member", func() {
			r := &wire.BlocksSelect{Span: wire.Span{Tenant: string(me), MinT: minT, MaxT: maxT}, Blocks: blocks, Matchers: wire.ToMatchers([]*labels.Matcher{one}), Whole: true}
			require.NoError(b, g.Server().Select(context.Background(), r, func(*wire.SeriesFrame) error { return nil }))
		})
		measured(span.name+"/prometheus", func() { read(oracleQuerier(b, local, minT, maxT), nil) })
	}
	b.Run("pooled/1d/warm", func(b *testing.B) {
		g := started(b, cfg, b.TempDir(), spy, tenant.DefaultLimits())
		id := tenant.ID(pooledTenant(*storedPooled / 2))
		blocks := blocksOf(b, g, id, end-day, end-1)
		for b.Loop() {
			q, err := g.Querier(context.Background(), id, end-day, end-1, blocks)
			require.NoError(b, err)
			require.Positive(b, readAll(b, q.Select(context.Background(), true, &storage.SelectHints{Start: end - day, End: end - 1}, all())))
			require.NoError(b, q.Close())
		}
	})
	b.Run("memory", func(b *testing.B) { b.ReportMetric(float64(peak(b))/(1<<20), "MiB-peak-rss") })
}

// readAll reads all samples, after all series are known.
func readAll(b *testing.B, set storage.SeriesSet) (n int) {
	b.Helper()
	var series []storage.Series
	for set.Next() {
		series = append(series, set.At())
	}
	require.NoError(b, set.Err())
	var it chunkenc.Iterator
	for _, s := range series {
		for it = s.Iterator(it); it.Next() != chunkenc.ValNone; n++ {
			continue
		}
		require.NoError(b, it.Err())
	}
	return n
}

func pooledTenant(i int) string { return fmt.Sprintf("tenant-%06d", i) }

// fillBucket writes the blocks, and returns those of the large tenant, opened
// as Prometheus does. The last day is in the pool, too.
func fillBucket(b *testing.B, to bucket.Bucket) (local []*tsdb.Block) {
	b.Helper()
	var own, pooled []labels.Labels
	for i := range *storedSeries {
		own = append(own, labels.FromStrings("__name__", fmt.Sprintf("metric_%d", i%100), "instance", fmt.Sprintf("host-%06d", i/100), "job", fmt.Sprintf("job-%d", i/100%10)))
	}
	builder := labels.NewScratchBuilder(4)
	for i := range *storedPooled {
		for j := range 5 {
			pooled = append(pooled, bucket.PoolLabels(&builder, pooledTenant(i), func(b *labels.ScratchBuilder) {
				b.Add("__name__", fmt.Sprintf("metric_%d", j))
				b.Add("instance", "host")
			}))
		}
	}
	for d := range *storedDays {
		dir := writeBlock(b, own, int64(d)*day)
		upload(b, to, bucket.TenantHome(string(me)), dir)
		local = append(local, openOracle(b, dir))
	}
	upload(b, to, bucket.PoolHome, writeBlock(b, pooled, int64(*storedDays-1)*day))
	return local
}

// writeBlock writes a block of a day without a head in between. There are
// sixteen kinds of series, those of one kind have the same samples.
func writeBlock(b *testing.B, series []labels.Labels, from int64) string {
	b.Helper()
	id := ulid.MustNew(uint64(from+day), bytes.NewReader(binaryOf(len(series))))
	dir := filepath.Join(b.TempDir(), id.String())
	require.NoError(b, os.MkdirAll(dir, 0o777))
	cw, err := chunks.NewWriter(filepath.Join(dir, "chunks"))
	require.NoError(b, err)
	iw, err := index.NewWriter(context.Background(), filepath.Join(dir, "index"))
	require.NoError(b, err)
	var symbols []string
	for _, ls := range series {
		ls.Range(func(l labels.Label) { symbols = append(symbols, l.Name, l.Value) })
	}
	slices.Sort(symbols)
	for _, s := range slices.Compact(symbols) {
		require.NoError(b, iw.AddSymbol(s))
	}
	var kinds [16][]chunks.Meta
	samples := 0
	for k := range kinds {
		kinds[k], samples = chunksOfADay(b, from, k)
	}
	slices.SortFunc(series, labels.Compare)
	for i, ls := range series {
		metas := slices.Clone(kinds[i%len(kinds)])
		require.NoError(b, cw.WriteChunks(metas...))
		require.NoError(b, iw.AddSeries(storage.SeriesRef(i), ls, metas...))
	}
	require.NoError(b, cw.Close())
	require.NoError(b, iw.Close())
	meta, err := json.Marshal(tsdb.BlockMeta{
		ULID: id, Version: 1, MinTime: from, MaxTime: from + day,
		Stats:      tsdb.BlockStats{NumSeries: uint64(len(series)), NumSamples: uint64(samples * len(series))},
		Compaction: tsdb.BlockMetaCompaction{Level: 3, Sources: []ulid.ULID{id}},
	})
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(filepath.Join(dir, "meta.json"), meta, 0o666))
	return dir
}

func binaryOf(n int) []byte { return fmt.Appendf(nil, "%010d", n) }

func chunksOfADay(b *testing.B, from int64, kind int) (out []chunks.Meta, samples int) {
	b.Helper()
	var app chunkenc.Appender
	for t := from; t < from+day; t += storedStep.Milliseconds() {
		if samples%120 == 0 {
			c := chunkenc.NewXORChunk()
			var err error
			app, err = c.Appender()
			require.NoError(b, err)
			out = append(out, chunks.Meta{MinTime: t, Chunk: c})
		}
		app.Append(0, t, float64(kind*samples%1000)+float64(samples)*1.5)
		out[len(out)-1].MaxTime = t
		samples++
	}
	return out, samples
}

// resetPeak and peak are about the most memory that the process has had.
func resetPeak(b *testing.B) {
	b.Helper()
	require.NoError(b, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0))
}

func peak(b *testing.B) int {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(b, err)
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.Atoi(string(bytes.Fields(value)[0]))
			require.NoError(b, err)
			return kib << 10
		}
	}
	b.Fatal("no VmHWM")
	return 0
}
