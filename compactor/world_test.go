package compactor_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/compactor"
	"github.com/hearth-metrics/hearth/tenant"
)

const hour = int64(time.Hour / time.Millisecond)

// sample is a float or a histogram.
type sample struct {
	t  int64
	f  float64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.f }
func (s sample) H() *histogram.Histogram       { return s.h }
func (s sample) FH() *histogram.FloatHistogram { return s.fh }
func (s sample) Copy() chunks.Sample           { return s }

func (s sample) Type() chunkenc.ValueType {
	switch {
	case s.h != nil:
		return chunkenc.ValHistogram
	case s.fh != nil:
		return chunkenc.ValFloatHistogram
	default:
		return chunkenc.ValFloat
	}
}

// text is a sample as the plain map has it. Counter resets of histograms are
// told by hints, which differ with what is beside; the buckets are what counts.
// A head turns a staleness marker into the kind of the series' last sample.
func text(s chunks.Sample) string {
	switch {
	case s.Type() == chunkenc.ValFloat && value.IsStaleNaN(s.F()), s.H() != nil && value.IsStaleNaN(s.H().Sum), s.FH() != nil && value.IsStaleNaN(s.FH().Sum):
		return "stale"
	case s.H() != nil:
		h := s.H().ToFloat(nil)
		return "histogram " + h.String() + fmt.Sprint(math.Float64bits(h.Sum))
	case s.FH() != nil:
		return "float histogram " + s.FH().String() + fmt.Sprint(math.Float64bits(s.FH().Sum))
	default:
		return fmt.Sprint(math.Float64bits(s.F()))
	}
}

// content is all samples, by tenant and series, then by time.
type content map[string]map[int64]string

func (c content) add(t testing.TB, id tenant.ID, ls labels.Labels, s chunks.Sample) {
	t.Helper()
	key := string(id) + ls.String()
	if c[key] == nil {
		c[key] = map[int64]string{}
	}
	if old, ok := c[key][s.T()]; ok {
		require.Equal(t, old, text(s), "%s at %d", key, s.T())
	}
	c[key][s.T()] = text(s)
}

// world is a bucket, and what was written into it.
type world struct {
	testing.TB
	bucket bucket.Bucket
	rnd    *rand.Rand
	want   content
	blocks int
}

func newWorld(t testing.TB, seed uint64) *world {
	return &world{TB: t, bucket: openFolder(t), rnd: rand.New(rand.NewPCG(seed, 1)), want: content{}}
}

func openFolder(t testing.TB) bucket.Bucket {
	t.Helper()
	b, err := bucket.New(bucket.DefaultConfig(), t.TempDir(), quiet, prometheus.NewRegistry())
	require.NoError(t, err)
	return b
}

var quiet = slog.New(slog.DiscardHandler)

// series is what one series writes.
type series struct {
	tenant  tenant.ID
	labels  labels.Labels
	samples []chunks.Sample // in order of time
}

// upload makes a block and uploads it to a home.
func (w *world) upload(home bucket.Key, all []series) ulid.ULID {
	w.Helper()
	dir := makeBlock(w, home, all)
	for _, s := range all {
		for _, x := range s.samples {
			w.want.add(w, s.tenant, s.labels, x)
		}
	}
	require.NoError(w, bucket.UploadBlock(w.Context(), w.bucket, home, dir))
	w.blocks++
	id := ulid.MustParse(filepath.Base(dir))
	if home != bucket.PoolHome {
		require.NoError(w, bucket.NoteDue(w.Context(), w.bucket, string(home), time.Now(), id.String()))
	}
	return id
}

func makeBlock(t testing.TB, home bucket.Key, all []series) (dir string) {
	t.Helper()
	var in []storage.Series
	for _, s := range all {
		if len(s.samples) == 0 {
			continue
		}
		ls := s.labels
		if home == bucket.PoolHome {
			var b labels.ScratchBuilder
			ls = bucket.PoolLabels(&b, string(s.tenant), func(b *labels.ScratchBuilder) {
				s.labels.Range(func(l labels.Label) { b.Add(l.Name, l.Value) })
			})
		}
		in = append(in, storage.NewListSeries(ls, s.samples))
	}
	dir, err := tsdb.CreateBlock(in, t.TempDir(), 48*hour, quiet)
	require.NoError(t, err)
	if home == bucket.PoolHome {
		b, err := tsdb.OpenBlock(quiet, dir, nil, nil)
		require.NoError(t, err)
		sizes, err := bucket.TenantSizes(t.Context(), b)
		require.NoError(t, err)
		require.NoError(t, b.Close())
		content, err := json.Marshal(sizes)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, bucket.TenantsFile), content, 0o666))
	}
	return dir
}

// readAll reads every block that a reader would: those without a deletion
// mark. It also returns how many samples are there more than once.
func (w *world) readAll(homes ...bucket.Key) (got content, twice int) {
	w.Helper()
	got = content{}
	for _, home := range homes {
		for _, b := range w.live(home) {
			twice += w.readBlock(got, home, b)
		}
	}
	return got, twice
}

func (w *world) live(home bucket.Key) (out []bucket.IndexBlock) {
	w.Helper()
	x, _, err := bucket.ReadIndex(w.Context(), w.bucket, home)
	require.NoError(w, err)
	for _, b := range x.Blocks {
		if !x.Marked(b.ID) {
			out = append(out, b)
		}
	}
	return out
}

func (w *world) readBlock(into content, home bucket.Key, entry bucket.IndexBlock) (twice int) {
	w.Helper()
	block := w.fetch(home, entry.ID)
	defer block.Close()
	q, err := tsdb.NewBlockQuerier(block, math.MinInt64, math.MaxInt64)
	require.NoError(w, err)
	defer q.Close()
	set := q.Select(w.Context(), false, nil, labels.MustNewMatcher(labels.MatchRegexp, "", ".*"))
	listed := w.tenants(home, entry.ID)
	for set.Next() {
		id, ls := tenant.ID(home), set.At().Labels()
		if home == bucket.PoolHome {
			name, own := bucket.SplitPoolLabels(ls)
			id, ls = tenant.ID(name), own
			require.Contains(w, listed, name, "the list of %s", entry.ID)
			part, n := bucket.ParseShardID(entry.CompactorShardID)
			require.Equal(w, part, bucket.PoolShard(name, n))
		}
		for it := set.At().Iterator(nil); ; {
			s, ok := next(it)
			if !ok {
				require.NoError(w, it.Err())
				break
			}
			require.True(w, entry.Overlaps(s.t, s.t))
			if _, ok := into[string(id)+ls.String()][s.t]; ok {
				twice++
			}
			into.add(w, id, ls, s)
		}
	}
	require.NoError(w, set.Err())
	return twice
}

func (w *world) fetch(home bucket.Key, id ulid.ULID) *tsdb.Block {
	w.Helper()
	dir := filepath.Join(w.TempDir(), id.String())
	require.NoError(w, os.MkdirAll(filepath.Join(dir, bucket.ChunksDir), 0o777))
	files, err := bucket.ListBlock(w.Context(), w.bucket, home, id)
	require.NoError(w, err)
	for _, f := range append(files, bucket.File{RelPath: bucket.MetaFile}) {
		require.NoError(w, bucket.FetchFile(w.Context(), w.bucket, bucket.BlockKey(home, id, f.RelPath), filepath.Join(dir, f.RelPath)))
	}
	block, err := tsdb.OpenBlock(quiet, dir, nil, nil)
	require.NoError(w, err)
	return block
}

func (w *world) tenants(home bucket.Key, id ulid.ULID) map[string]int64 {
	w.Helper()
	if home != bucket.PoolHome {
		return nil
	}
	tenants, err := bucket.ReadTenants(w.Context(), w.bucket, id)
	require.NoError(w, err)
	require.NotEmpty(w, tenants)
	return tenants
}

func next(it chunkenc.Iterator) (sample, bool) {
	switch it.Next() {
	case chunkenc.ValFloat:
		t, f := it.At()
		return sample{t: t, f: f}, true
	case chunkenc.ValHistogram:
		t, h := it.AtHistogram(nil)
		return sample{t: t, h: h}, true
	case chunkenc.ValFloatHistogram:
		t, fh := it.AtFloatHistogram(nil)
		return sample{t: t, fh: fh}, true
	default:
		return sample{}, false
	}
}

// requireContent compares all live blocks with what was written.
func (w *world) requireContent(homes ...bucket.Key) (twice int) {
	w.Helper()
	got, twice := w.readAll(homes...)
	require.Len(w, got, len(w.want), "series")
	for key, want := range w.want {
		require.Equal(w, want, got[key], "%s", key)
	}
	return twice
}

// randomSeries has samples between two times: floats that count up and reset,
// go stale, or histograms.
func (w *world) randomSeries(id tenant.ID, n int, minT, maxT int64) series {
	ls := labels.FromStrings("__name__", fmt.Sprintf("m%d", n%7), "instance", fmt.Sprintf("host-%d", n), "job", fmt.Sprintf("of-%s", id))
	s := series{tenant: id, labels: ls}
	kind, v := n%5, 0.0
	for t := minT + w.rnd.Int64N(60_000); t < maxT; t += 60_000 + w.rnd.Int64N(20*60_000) {
		if v += float64(w.rnd.IntN(9)); w.rnd.IntN(12) == 0 {
			v = 0
		}
		x := sample{t: t, f: v}
		switch {
		case w.rnd.IntN(15) == 0:
			x.f = math.Float64frombits(value.StaleNaN)
		case kind == 1:
			x.h = tsdbutil.GenerateTestHistogram(int64(v))
		case kind == 2:
			x.fh = tsdbutil.GenerateTestFloatHistogram(int64(v))
		}
		s.samples = append(s.samples, x)
	}
	return s
}

// replicas divides what was written over blocks as three ingesters ship it:
// each has most of it, with gaps, and all of it is in one of them.
func (w *world) replicas(home bucket.Key, all []series) {
	w.Helper()
	copies := make([][]series, 3)
	for _, s := range all {
		of := make([][]chunks.Sample, 3)
		for _, x := range s.samples {
			sure := w.rnd.IntN(3)
			for r := range of {
				if r == sure || w.rnd.IntN(10) > 0 {
					of[r] = append(of[r], x)
				}
			}
		}
		for r := range of {
			copies[r] = append(copies[r], series{s.tenant, s.labels, of[r]})
		}
	}
	for _, c := range copies {
		w.upload(home, c)
	}
}

// late is a block of some samples between what is there already.
func (w *world) late(home bucket.Key, all []series) {
	w.Helper()
	var some []series
	for _, s := range all {
		var xs []chunks.Sample
		for _, x := range s.samples {
			if w.rnd.IntN(4) == 0 && x.Type() == chunkenc.ValFloat {
				xs = append(xs, sample{t: x.T() + 7, f: float64(w.rnd.IntN(100))})
			}
		}
		some = append(some, series{s.tenant, s.labels, xs})
	}
	if slices.ContainsFunc(some, func(s series) bool { return len(s.samples) > 0 }) {
		w.upload(home, some)
	}
}

// settings makes a compactor do all at once.
func settings() compactor.Config {
	cfg := compactor.DefaultConfig()
	cfg.DeletionDelay = 0
	cfg.Concurrency = 2
	return cfg
}

func (w *world) compactor(b bucket.Bucket, split uint64, limits func(tenant.ID) *tenant.Limits) *compactor.Compactor {
	w.Helper()
	return w.configured(settings(), b, split, limits)
}

func (w *world) configured(cfg compactor.Config, b bucket.Bucket, split uint64, limits func(tenant.ID) *tenant.Limits) *compactor.Compactor {
	w.Helper()
	c, err := compactor.New(cfg, w.TempDir(), b, limits, quiet, prometheus.NewRegistry())
	require.NoError(w, err)
	if split > 0 {
		c.SplitAbove(split)
	}
	return c
}

func forEver(tenant.ID) *tenant.Limits { return &tenant.Limits{} }

// dayStart is the beginning of a day some days ago.
func dayStart(daysAgo int64) int64 {
	now := time.Now().UnixMilli()
	return now - now%(24*hour) - daysAgo*24*hour
}
