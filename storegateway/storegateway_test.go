package storegateway

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/grafana/dskit/services"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// testServer is one real S3 server for all that want one.
var testServer buckettest.Server

func TestMain(m *testing.M) {
	os.Exit(testServer.Run(m))
}

var discard = slog.New(slog.DiscardHandler)

// spy is a bucket that counts requests, and lets a test have them fail.
type spy struct {
	bucket.Bucket
	dir string // of the objects

	mu    sync.Mutex
	calls map[string]int
	hook  func(op string, key bucket.Key) error
}

func newSpy(tb testing.TB) *spy {
	tb.Helper()
	dir := tb.TempDir()
	cfg := bucket.DefaultConfig()
	cfg.Filesystem.Dir = dir
	b, err := bucket.New(cfg, "", discard, prometheus.NewRegistry())
	require.NoError(tb, err)
	return &spy{Bucket: b, dir: dir, calls: map[string]int{}}
}

func (s *spy) see(op string, key bucket.Key) error {
	s.mu.Lock()
	s.calls[op]++
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op, key)
}

func (s *spy) setHook(hook func(op string, key bucket.Key) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// taken returns the requests since the last call.
func (s *spy) taken() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls
	s.calls = map[string]int{}
	return c
}

func (s *spy) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	if err := s.see("get", key); err != nil {
		return nil, bucket.Object{}, err
	}
	return s.Bucket.Get(ctx, key)
}

func (s *spy) GetRange(ctx context.Context, key bucket.Key, offset, length int64) (io.ReadCloser, error) {
	if err := s.see("range", key); err != nil {
		return nil, err
	}
	return s.Bucket.GetRange(ctx, key, offset, length)
}

func (s *spy) Stat(ctx context.Context, key bucket.Key) (bucket.Object, error) {
	if err := s.see("stat", key); err != nil {
		return bucket.Object{}, err
	}
	return s.Bucket.Stat(ctx, key)
}

func (s *spy) List(ctx context.Context, prefix bucket.Key, recursive bool) iter.Seq2[bucket.Object, error] {
	if err := s.see("list", prefix); err != nil {
		return func(yield func(bucket.Object, error) bool) { yield(bucket.Object{}, err) }
	}
	return s.Bucket.List(ctx, prefix, recursive)
}

// started makes a gateway that runs until the test ends.
func started(tb testing.TB, cfg Config, dir string, b bucket.Bucket, limits tenant.Limits) *Gateway {
	tb.Helper()
	g, err := New(cfg, dir, b, func(tenant.ID) *tenant.Limits { return &limits }, discard, prometheus.NewRegistry())
	require.NoError(tb, err)
	require.NoError(tb, services.StartAndAwaitRunning(context.Background(), g))
	tb.Cleanup(func() { stop(tb, g) })
	return g
}

func stop(tb testing.TB, g *Gateway) {
	tb.Helper()
	require.NoError(tb, services.StopAndAwaitTerminated(context.Background(), g))
}

// smallConfig sizes caches for tests.
func smallConfig() Config {
	cfg := DefaultConfig()
	cfg.ChunkCacheMemory, cfg.ChunkCacheDisk, cfg.MaxIndexDisk = 16<<20, 64<<20, 64<<20
	return cfg
}

// blockOptions describes a block made for a test. Samples are 15 s apart.
type blockOptions struct {
	series      int
	samples     int // of each series
	start       int64
	pool        []string // tenants, whose series are the same but for values
	segmentSize int64
	floatsOnly  bool
}

const step = 15_000

// series makes the labels of the i-th series.
func seriesLabels(i int) labels.Labels {
	return labels.FromStrings(
		"__name__", fmt.Sprintf("metric_%d", i%13),
		"instance", fmt.Sprintf("host-%05d", i),
		"job", fmt.Sprintf("job-%d", i%7),
		"zone", []string{"", "a", "b"}[i%3],
	)
}

// makeBlock writes a block below dir, and returns its folder.
func makeBlock(tb testing.TB, dir string, o blockOptions) string {
	tb.Helper()
	ctx := context.Background()
	opts := tsdb.DefaultHeadOptions()
	opts.ChunkDirRoot = tb.TempDir()
	opts.ChunkRange = 10 * 24 * 3600_000
	head, err := tsdb.NewHead(nil, discard, nil, nil, opts, nil)
	require.NoError(tb, err)
	defer head.Close()
	require.NoError(tb, head.Init(math.MinInt64))

	pool := o.pool
	if pool == nil {
		pool = []string{""}
	}
	rnd := rand.New(rand.NewPCG(1, uint64(o.start)))
	for n, name := range pool {
		for i := range o.series {
			ls := seriesLabels(i)
			if name != "" {
				b := labels.NewScratchBuilder(8)
				ls = bucket.PoolLabels(&b, name, func(b *labels.ScratchBuilder) {
					seriesLabels(i).Range(func(l labels.Label) { b.Add(l.Name, l.Value) })
				})
			}
			app := head.Appender(ctx)
			appendSamples(tb, app, ls, i, n, o, rnd)
			require.NoError(tb, app.Commit())
		}
	}
	co := tsdb.LeveledCompactorOptions{MaxBlockChunkSegmentSize: o.segmentSize, EnableOverlappingCompaction: true}
	comp, err := tsdb.NewLeveledCompactorWithOptions(ctx, nil, discard, []int64{opts.ChunkRange}, nil, co)
	require.NoError(tb, err)
	ids, err := comp.Write(dir, head, head.MinTime(), head.MaxTime()+1, nil)
	require.NoError(tb, err)
	require.Len(tb, ids, 1)
	return filepath.Join(dir, ids[0].String())
}

func appendSamples(tb testing.TB, app storage.Appender, ls labels.Labels, i, n int, o blockOptions, rnd *rand.Rand) {
	tb.Helper()
	kind := i % 8
	if o.floatsOnly {
		kind = 0
	}
	value := float64(n * 1_000_000)
	for j := range o.samples {
		ts := o.start + int64(j)*step + int64(i%50)
		k := int64(i%20 + j)
		var err error
		switch kind {
		case 4:
			_, err = app.AppendHistogram(0, ls, ts, tsdbutil.GenerateTestHistogram(k), nil)
		case 5:
			_, err = app.AppendHistogram(0, ls, ts, nil, tsdbutil.GenerateTestFloatHistogram(k))
		case 6:
			_, err = app.AppendHistogram(0, ls, ts, tsdbutil.GenerateTestCustomBucketsHistogram(k), nil)
		case 7:
			_, err = app.AppendHistogram(0, ls, ts, nil, tsdbutil.GenerateTestCustomBucketsFloatHistogram(k))
		default:
			value += rnd.Float64()
			_, err = app.Append(0, ls, ts, value)
		}
		require.NoError(tb, err)
	}
}

// blockID is the block in a folder.
func blockID(tb testing.TB, dir string) ulid.ULID {
	tb.Helper()
	id, err := ulid.ParseStrict(filepath.Base(dir))
	require.NoError(tb, err)
	return id
}

func upload(tb testing.TB, b bucket.Bucket, home bucket.Key, dir string) {
	tb.Helper()
	require.NoError(tb, bucket.UploadBlock(context.Background(), b, home, dir))
}

// openOracle opens a block as Prometheus does.
func openOracle(tb testing.TB, dir string) *tsdb.Block {
	tb.Helper()
	b, err := tsdb.OpenBlock(discard, dir, nil, nil)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		if !tb.Failed() { // a test that failed may have left queriers open, for which Close waits
			require.NoError(tb, b.Close())
		}
	})
	return b
}

// dump reads a set as text, one line a series and one a sample. Like the
// engine it gathers all series first, unless asked to stream.
func dump(set storage.SeriesSet, stream bool) ([]string, error) {
	var out []string
	var all []storage.Series
	read := func(s storage.Series) error {
		out = append(out, s.Labels().String())
		it := s.Iterator(nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			switch vt {
			case chunkenc.ValFloat:
				t, v := it.At()
				out = append(out, fmt.Sprintf("%d %x", t, math.Float64bits(v)))
			case chunkenc.ValHistogram:
				t, h := it.AtHistogram(nil)
				out = append(out, fmt.Sprintf("%d %v %v %v", t, h, h.CounterResetHint, h.CustomValues))
			case chunkenc.ValFloatHistogram:
				t, h := it.AtFloatHistogram(nil)
				out = append(out, fmt.Sprintf("%d %v %v %v", t, h, h.CounterResetHint, h.CustomValues))
			}
		}
		return it.Err()
	}
	for set.Next() {
		if !stream {
			all = append(all, set.At())
			continue
		}
		if err := read(set.At()); err != nil {
			return out, err
		}
	}
	for _, s := range all {
		if err := read(s); err != nil {
			return out, err
		}
	}
	return out, set.Err()
}

// dumpChunks reads a set of chunks as text.
func dumpChunks(set storage.ChunkSeriesSet) ([]string, error) {
	var out []string
	for set.Next() {
		s := set.At()
		out = append(out, s.Labels().String())
		it := s.Iterator(nil)
		for it.Next() {
			m := it.At()
			out = append(out, fmt.Sprintf("%d %d %v %x", m.MinTime, m.MaxTime, m.Chunk.Encoding(), m.Chunk.Bytes()))
		}
		if err := it.Err(); err != nil {
			return out, err
		}
	}
	return out, set.Err()
}

// blocksOf lists what a tenant has in the bucket, but for what is in skip.
func blocksOf(tb testing.TB, g *Gateway, id tenant.ID, minT, maxT int64, skip ...ulid.ULID) (out wire.Blocks) {
	tb.Helper()
	b := g.bucket
	if s, ok := b.(*spy); ok {
		b = s.Bucket
	}
	list := func(home bucket.Key) (ids []ulid.ULID) {
		x, _, err := bucket.ReadIndex(context.Background(), b, home)
		require.NoError(tb, err)
		for i := range x.Blocks {
			if e := &x.Blocks[i]; e.Overlaps(minT, maxT) && !slices.Contains(skip, e.ID) {
				ids = append(ids, e.ID)
			}
		}
		return ids
	}
	return wire.Blocks{Own: list(bucket.TenantHome(string(id))), Pooled: list(bucket.PoolHome)}
}

// openAll opens all that the gateway can read of a tenant.
func openAll(tb testing.TB, g *Gateway, id tenant.ID, minT, maxT int64) (storage.Querier, error) {
	tb.Helper()
	return g.Querier(context.Background(), id, minT, maxT, blocksOf(tb, g, id, minT, maxT))
}

// query runs one select over all that the gateway can read of a tenant.
func query(tb testing.TB, g *Gateway, id tenant.ID, minT, maxT int64, ms ...*labels.Matcher) ([]string, error) {
	tb.Helper()
	q, err := openAll(tb, g, id, minT, maxT)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	return dump(q.Select(context.Background(), true, &storage.SelectHints{Start: minT, End: maxT}, ms...), false)
}

// oracle runs one select as Prometheus does over local blocks.
func oracle(tb testing.TB, blocks []*tsdb.Block, minT, maxT int64, ms ...*labels.Matcher) []string {
	tb.Helper()
	q := oracleQuerier(tb, blocks, minT, maxT)
	defer q.Close()
	out, err := dump(q.Select(context.Background(), true, &storage.SelectHints{Start: minT, End: maxT}, slices.Clone(ms)...), true)
	require.NoError(tb, err)
	return out
}

func oracleQuerier(tb testing.TB, blocks []*tsdb.Block, minT, maxT int64) storage.Querier {
	tb.Helper()
	var qs []storage.Querier
	for _, b := range blocks {
		if m := b.Meta(); m.MinTime > maxT || m.MaxTime <= minT {
			continue
		}
		q, err := tsdb.NewBlockQuerier(b, minT, maxT)
		require.NoError(tb, err)
		qs = append(qs, q)
	}
	return storage.NewMergeQuerier(qs, nil, storage.ChainedSeriesMerge)
}

func all() *labels.Matcher { return labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+") }

// randomMatchers makes a selector that some series may match.
func randomMatchers(rnd *rand.Rand) []*labels.Matcher {
	kinds := []labels.MatchType{labels.MatchEqual, labels.MatchNotEqual, labels.MatchRegexp, labels.MatchNotRegexp}
	values := map[string][]string{
		"__name__": {"metric_1", "metric_12", "metric_1|metric_3", "metric_.*", ".+", "nothing"},
		"instance": {"host-00007", "host-000.*", "host-0.*[13]", ".*", ""},
		"job":      {"job-1", "job-(1|2|3)", "job-[4-6]", "other", ""},
		"zone":     {"a", "b", "", "a|b", ".+", "a|"},
		"absent":   {"", "x", ".*", ".+"},
	}
	names := []string{"__name__", "instance", "job", "zone", "absent"}
	ms := []*labels.Matcher{}
	for range rnd.IntN(3) + 1 {
		name := names[rnd.IntN(len(names))]
		ms = append(ms, labels.MustNewMatcher(kinds[rnd.IntN(len(kinds))], name, values[name][rnd.IntN(len(values[name]))]))
	}
	return ms
}

func describe(ms []*labels.Matcher) string {
	var ss []string
	for _, m := range ms {
		ss = append(ss, m.String())
	}
	return "{" + strings.Join(ss, ",") + "}"
}

// path is where an object is on disk, for tests that damage it.
func (s *spy) path(key bucket.Key) string {
	return filepath.Join(s.dir, filepath.FromSlash(string(key)))
}

// flip damages a byte of a file; a negative offset counts from its end.
func flip(tb testing.TB, path string, offset int64) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(tb, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(tb, err)
	if offset < 0 {
		offset += info.Size()
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, offset)
	require.NoError(tb, err)
	b[0] ^= 0x55
	_, err = f.WriteAt(b, offset)
	require.NoError(tb, err)
}
