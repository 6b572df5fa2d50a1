package block_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

const (
	minute = int64(60_000)
	hour   = 60 * minute
	day    = 24 * hour
)

var quiet = slog.New(slog.DiscardHandler)

// sample is a float, or a histogram.
type sample struct {
	t int64
	f float64
	h *histogram.Histogram
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.f }
func (s sample) H() *histogram.Histogram       { return s.h }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Copy() chunks.Sample           { return s }

func (s sample) Type() chunkenc.ValueType {
	if s.h != nil {
		return chunkenc.ValHistogram
	}
	return chunkenc.ValFloat
}

func (s sample) text() string {
	if s.h != nil {
		return s.h.String()
	}
	return fmt.Sprint(math.Float64bits(s.f))
}

// content is samples by series, then by time.
type content map[string]map[int64]string

func (c content) add(ls labels.Labels, s sample) {
	key := ls.String()
	if c[key] == nil {
		c[key] = map[int64]string{}
	}
	c[key][s.t] = s.text()
}

// random makes n series with samples between two times, in order.
func random(r *rand.Rand, n int, minT, maxT int64) map[string][]chunks.Sample {
	all := map[string][]chunks.Sample{}
	for i := range n {
		var samples []chunks.Sample
		for t := minT + r.Int64N(30*minute); t < maxT; t += minute + r.Int64N(3*hour) {
			s := sample{t: t, f: float64(r.IntN(1000))}
			if i%4 == 3 {
				s.h = tsdbutil.GenerateTestHistogram(int64(len(samples)))
			}
			samples = append(samples, s)
		}
		all[fmt.Sprintf("host-%d", i)] = samples
	}
	return all
}

// makeBlock writes series to a block.
func makeBlock(t testing.TB, series []storage.Series) (dir string) {
	t.Helper()
	dir, err := tsdb.CreateBlock(series, t.TempDir(), 60*day, quiet)
	require.NoError(t, err)
	return dir
}

// read reads all of a block.
func read(t testing.TB, dir string) content {
	t.Helper()
	got, err := tryRead(dir)
	require.NoError(t, err)
	return got
}

func tryRead(dir string) (got content, err error) {
	got = content{}
	b, err := tsdb.OpenBlock(quiet, dir, nil, nil)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	q, err := tsdb.NewBlockQuerier(b, math.MinInt64, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	set := q.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "", ".*"))
	for set.Next() {
		it := set.At().Iterator(nil)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			s := sample{}
			if kind == chunkenc.ValHistogram {
				s.t, s.h = it.AtHistogram(nil)
			} else {
				s.t, s.f = it.At()
			}
			got.add(set.At().Labels(), s)
		}
		if it.Err() != nil {
			return nil, it.Err()
		}
	}
	return got, set.Err()
}

// copyBlock copies the folder of a block.
func copyBlock(t testing.TB, from, to string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(to))
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
}

func files(t testing.TB, dir string) (paths []string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "chunks", "*"))
	require.NoError(t, err)
	return append(segments, filepath.Join(dir, "index"))
}
