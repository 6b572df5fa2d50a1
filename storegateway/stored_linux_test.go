package storegateway

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
	"github.com/hearth-metrics/hearth/tenant"
)

var (
	storedSeries = flag.Int("stored.series", 2000, "series of the large tenant")
	storedDays   = flag.Int("stored.days", 3, "days of data, one block each")
	storedPooled = flag.Int("stored.pooled", 200, "tenants in the pool, of five series each")
	storedStep   = flag.Duration("stored.step", time.Minute, "time between samples")
)

const (
	day = 24 * 60 * 60 * 1000

	// processHeap is what a process that does nothing has on its heap, which a
	// benchmark has not: the collector runs as often as in a process.
	processHeap = 20 << 20
)

// question is something that is asked of one tenant's blocks. Without chunks it
// asks for the series alone, with a label for that one's values.
type question struct {
	name     string
	noChunks bool
	label    string
	ms       []*labels.Matcher
}

// questions are ten of what people ask, the dear ones among them. There are 100
// metrics, a thousand instances of each, ten jobs, and a pod for each series.
func questions() []question {
	is := func(kind labels.MatchType, name, value string) *labels.Matcher {
		return labels.MustNewMatcher(kind, name, value)
	}
	metric := is(labels.MatchEqual, "__name__", "metric_42")
	return []question{
		{name: "a metric", ms: []*labels.Matcher{metric}},
		{name: "one series", ms: []*labels.Matcher{metric, is(labels.MatchEqual, "instance", "host-000001")}},
		{name: "three instances", ms: []*labels.Matcher{metric, is(labels.MatchRegexp, "instance", "host-000001|host-000005|host-000007")}},
		{name: "a prefix", ms: []*labels.Matcher{metric, is(labels.MatchRegexp, "instance", "host-0000.*")}},
		{name: "all jobs but one", ms: []*labels.Matcher{metric, is(labels.MatchNotEqual, "job", "job-1")}},
		{name: ".*777.* of all pods", ms: []*labels.Matcher{is(labels.MatchRegexp, "pod", ".*777.*")}},
		{name: ".*7.* of a metric's", ms: []*labels.Matcher{metric, is(labels.MatchRegexp, "pod", ".*7.*")}},
		{name: "series of a job", noChunks: true, ms: []*labels.Matcher{is(labels.MatchEqual, "job", "job-1")}},
		{name: "pods of a metric", label: "pod", ms: []*labels.Matcher{metric}},
		{name: "all metrics' names", label: "__name__"},
	}
}

// ask answers a question, and says of how much: samples, series, or values.
func (x *question) ask(b *testing.B, q storage.Querier, minT, maxT int64) (n int) {
	b.Helper()
	defer func() { require.NoError(b, q.Close()) }()
	hints := &storage.SelectHints{Start: minT, End: maxT}
	switch {
	case x.label != "":
		values, _, err := q.LabelValues(context.Background(), x.label, nil, x.ms...)
		require.NoError(b, err)
		return len(values)
	case x.noChunks:
		hints.Func = "series"
		set := q.Select(context.Background(), true, hints, x.ms...)
		for set.Next() {
			n++
		}
		require.NoError(b, set.Err())
		return n
	default:
		return readAll(b, q.Select(context.Background(), true, hints, x.ms...))
	}
}

// asked is what one question over one time has cost.
type asked struct {
	found      int
	first      time.Duration // with no chunks here; for the first question of a time with no index either
	requests   int
	bytes      int64
	warm, prom time.Duration // of the processor, which a busy machine does not blur
}

var spans = []struct {
	name string
	ms   int64
}{{"1h", day / 24}, {"1d", day}, {"7d", 7 * day}, {"30d", 30 * day}}

// BenchmarkStored asks a gateway over a real S3 server and HTTP, with nothing
// here and then again with all of it, and Prometheus over the same blocks on
// local disk. It runs once, and prints a table; `make bench-stored` runs it at
// scale.
func BenchmarkStored(b *testing.B) {
	reg := prometheus.NewRegistry()
	s3, err := bucket.New(bucket.Config{Type: bucket.TypeS3, S3: bucket.S3Config{
		Endpoint: testServer.Addr(b), Bucket: buckettest.Bucket, Region: "us-east-1", Insecure: true,
		AccessKeyID: buckettest.AccessKeyID, SecretAccessKey: buckettest.SecretAccessKey,
	}}, b.TempDir(), discard, reg)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s3.(io.Closer).Close()) })
	dirs := fillBucket(b, s3)
	debug.FreeOSMemory()
	debug.SetGCPercent(75) // as the process does
	besides := make([]*[64]byte, processHeap/(64+8))
	for i := range besides {
		besides[i] = new([64]byte)
	}
	defer runtime.KeepAlive(besides)
	resetPeak(b)

	table := map[string]*asked{}
	end := int64(*storedDays) * day
	eachQuestion := func(f func(span string, minT, maxT int64, x *question, a *asked)) {
		for _, span := range spans {
			for _, x := range questions() {
				key := span.name + x.name
				if table[key] == nil {
					table[key] = &asked{}
				}
				if span.ms <= end {
					f(span.name, end-span.ms, end-1, &x, table[key])
				}
			}
		}
	}
	bill := func() (requests int, read int64) {
		return int(sumOf(b, reg, "hearth_bucket_s3_requests_total", "")), int64(sumOf(b, reg, "hearth_bucket_bytes_total", "out"))
	}
	cfg := DefaultConfig()
	cfg.MaxIndexDisk, cfg.ChunkCacheDisk = 4<<30, 4<<30
	// Each span begins with a gateway that has nothing, and the one before it gone.
	var g *Gateway
	last := ""
	fresh := func() {
		if g != nil {
			stop(b, g)
		}
		limits := tenant.DefaultLimits()
		var err error
		g, err = New(cfg, b.TempDir(), s3, func(tenant.ID) *tenant.Limits { return &limits }, discard, prometheus.NewRegistry())
		require.NoError(b, err)
		require.NoError(b, services.StartAndAwaitRunning(context.Background(), g))
	}
	defer func() { stop(b, g) }()
	eachQuestion(func(span string, minT, maxT int64, x *question, a *asked) {
		if span != last {
			fresh()
			last = span
		}
		blocks := blocksOf(b, g, me, minT, maxT)
		requests, read := bill()
		ask := func() int {
			q, err := g.Querier(context.Background(), me, minT, maxT, blocks)
			require.NoError(b, err)
			return x.ask(b, q, minT, maxT)
		}
		began := time.Now()
		a.found = ask()
		a.first = time.Since(began)
		a.requests, a.bytes = bill()
		a.requests, a.bytes = a.requests-requests, a.bytes-read
		a.warm = processor(b, func() { require.Equal(b, a.found, ask()) })
	})
	pooled := askPooled(b, g, end)
	most := peak(b)

	var local []*tsdb.Block
	for _, dir := range dirs {
		local = append(local, openOracle(b, dir))
	}
	eachQuestion(func(_ string, minT, maxT int64, x *question, a *asked) {
		ask := func() { require.Equal(b, a.found, x.ask(b, oracleQuerier(b, local, minT, maxT), minT, maxT)) }
		ask()
		a.prom = processor(b, ask)
	})
	fmt.Printf("%-4s %-22s %10s %10s %9s %9s %10s %10s %6s\n", "of", "question", "found", "first ms", "requests", "MiB", "warm ms", "prom ms", "ratio") // a benchmark's log is cut off
	eachQuestion(func(span string, _, _ int64, x *question, a *asked) {
		fmt.Printf("%-4s %-22s %10d %10.1f %9d %9.2f %10.2f %10.2f %6.2f\n", span, x.name, a.found, milli(a.first), a.requests, float64(a.bytes)/(1<<20), milli(a.warm), milli(a.prom), float64(a.warm)/float64(a.prom))
	})
	fmt.Printf("one of %d pooled tenants, 1d: %.2f ms warm; peak RSS of the gateway's process: %d MiB\n", *storedPooled, milli(pooled), most>>20)
}

func milli(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// askPooled asks for all series of a tenant of the pool.
func askPooled(b *testing.B, g *Gateway, end int64) time.Duration {
	b.Helper()
	id := tenant.ID(pooledTenant(*storedPooled / 2))
	blocks := blocksOf(b, g, id, end-day, end-1)
	x := question{ms: []*labels.Matcher{all()}}
	ask := func() {
		q, err := g.Querier(context.Background(), id, end-day, end-1, blocks)
		require.NoError(b, err)
		require.Positive(b, x.ask(b, q, end-day, end-1))
	}
	ask()
	return processor(b, ask)
}

// processor is the time that f takes of the processor, the collector's part
// included: the median of five averages of three times, or of as many as take a
// twentieth of a second.
func processor(b *testing.B, f func()) time.Duration {
	b.Helper()
	var rounds [5]int64
	for i := range rounds {
		before, times := processorTime(b), int64(0)
		for times < 3 || processorTime(b)-before < (50*time.Millisecond).Nanoseconds() {
			f()
			times++
		}
		rounds[i] = (processorTime(b) - before) / times
	}
	slices.Sort(rounds[:])
	return time.Duration(rounds[len(rounds)/2])
}

// sumOf is the sum of a counter over its labels, or of those series of it that
// have a value in some label.
func sumOf(b *testing.B, reg prometheus.Gatherer, name, value string) (sum float64) {
	b.Helper()
	all, err := reg.Gather()
	require.NoError(b, err)
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if value == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == value }) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
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

// fillBucket writes the blocks, and returns where those of the large tenant are.
// The last day is in the pool, too.
func fillBucket(b *testing.B, to bucket.Bucket) (dirs []string) {
	b.Helper()
	var own, pooled []labels.Labels
	for i := range *storedSeries {
		own = append(own, labels.FromStrings("__name__", fmt.Sprintf("metric_%d", i%100), "instance", fmt.Sprintf("host-%06d", i/100), "job", fmt.Sprintf("job-%d", i/100%10), "pod", fmt.Sprintf("pod-%06d", i)))
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
		dirs = append(dirs, dir)
	}
	upload(b, to, bucket.PoolHome, writeBlock(b, pooled, int64(*storedDays-1)*day))
	return dirs
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
		if samples%240 == 0 {
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
