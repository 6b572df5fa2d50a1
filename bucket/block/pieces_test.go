package block_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
)

// TestPiecesHaveTheSameSamples compares random blocks, cut in all ways, with a
// plain map.
func TestPiecesHaveTheSameSamples(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 7))
			view := block.View{}
			if seed%2 == 1 {
				view.Tenant = "acme"
			}
			if seed%3 == 2 {
				view.Add = map[string]string{"cluster": "eu", "host": "is kept", "aa": "first"}
			}
			in, want := seriesFor(r, view)
			dir := makeBlock(t, in)
			whole, err := view.Whole(dir)
			require.NoError(t, err)
			require.False(t, whole)

			pieces := cut(t, dir, view)
			got := content{}
			for _, piece := range pieces {
				meta, err := block.ReadMeta(piece)
				require.NoError(t, err)
				require.Equal(t, filepath.Base(piece), meta.ULID.String())
				require.Equal(t, meta.MinTime/day, (meta.MaxTime-1)/day, "within a day")
				_, err = block.Verify(t.Context(), piece, nil)
				require.NoError(t, err)
				for series, samples := range read(t, piece) {
					for at, text := range samples {
						require.True(t, meta.MinTime <= at && at < meta.MaxTime)
						if got[series] == nil {
							got[series] = map[int64]string{}
						}
						require.NotContains(t, got[series], at, "twice")
						got[series][at] = text
					}
				}
				again, err := block.View{}.Whole(piece)
				require.NoError(t, err)
				require.True(t, again, "a piece is not cut again")
			}
			require.Equal(t, want, got)
			require.Equal(t, names(pieces), names(cut(t, dir, view)), "the same names each time")
			if view.Tenant != "" {
				require.NotEqual(t, names(pieces), names(cut(t, dir, block.View{Tenant: "other"})))
			}
		})
	}
}

func cut(t *testing.T, dir string, view block.View) []string {
	t.Helper()
	pieces, err := block.Pieces(t.Context(), dir, t.TempDir(), view)
	require.NoError(t, err)
	require.NotEmpty(t, pieces)
	return pieces
}

func names(dirs []string) (out []string) {
	for _, dir := range dirs {
		out = append(out, filepath.Base(dir))
	}
	return out
}

// seriesFor makes series of two and a half days, some of which differ in one
// label only, and what a view shows of them.
func seriesFor(r *rand.Rand, view block.View) (in []storage.Series, want content) {
	want = content{}
	for _, id := range []string{"acme", "other"} {
		if view.Tenant == "" && id == "other" {
			continue
		}
		for host, samples := range random(r, 9, 100*day+5*hour, 102*day+17*hour) {
			own := labels.FromStrings("__name__", "up", "host", host)
			if r.IntN(2) == 0 {
				own = labels.FromStrings("__name__", "up", "zone", host)
			}
			stored, shown := own, labels.NewBuilder(own)
			if view.Tenant != "" {
				var b labels.ScratchBuilder
				stored = bucket.PoolLabels(&b, id, func(b *labels.ScratchBuilder) { own.Range(func(l labels.Label) { b.Add(l.Name, l.Value) }) })
			}
			for name, value := range view.Add {
				if !own.Has(name) {
					shown.Set(name, value)
				}
			}
			in = append(in, storage.NewListSeries(stored, samples))
			if view.Tenant == "" || view.Tenant == id {
				for _, s := range samples {
					want.add(shown.Labels(), s.(sample))
				}
			}
		}
	}
	return in, want
}

func TestPiecesLeaveOutWhatIsDeleted(t *testing.T) {
	t.Parallel()
	dir := makeBlock(t, []storage.Series{
		storage.NewListSeries(labels.FromStrings("__name__", "up", "host", "a"), []chunks.Sample{sample{t: day, f: 1}, sample{t: day + hour, f: 2}}),
		storage.NewListSeries(labels.FromStrings("__name__", "up", "host", "b"), []chunks.Sample{sample{t: day, f: 3}}),
	})
	whole, err := block.View{}.Whole(dir)
	require.NoError(t, err)
	require.True(t, whole)
	b, err := tsdb.OpenBlock(quiet, dir, nil, nil)
	require.NoError(t, err)
	require.NoError(t, b.Delete(t.Context(), day+1, day+hour, labels.MustNewMatcher(labels.MatchEqual, "host", "a")))
	require.NoError(t, b.Close())
	whole, err = block.View{}.Whole(dir)
	require.NoError(t, err)
	require.False(t, whole)

	pieces := cut(t, dir, block.View{})
	require.Len(t, pieces, 1)
	got := read(t, pieces[0])
	require.Len(t, got[`{__name__="up", host="a"}`], 1)
	require.Len(t, got[`{__name__="up", host="b"}`], 1)
}

func TestAddedLabelsMayNotMakeOneSeriesOfTwo(t *testing.T) {
	t.Parallel()
	dir := makeBlock(t, []storage.Series{
		storage.NewListSeries(labels.FromStrings("__name__", "up", "cluster", "eu"), []chunks.Sample{sample{t: day, f: 1}}),
		storage.NewListSeries(labels.FromStrings("__name__", "up"), []chunks.Sample{sample{t: day, f: 2}}),
	})
	_, err := block.Pieces(t.Context(), dir, t.TempDir(), block.View{Add: map[string]string{"cluster": "eu"}})
	require.ErrorContains(t, err, "two series become one")
}

func TestIsPart(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"index": true, "tombstones": true, "chunks/000001": true, "chunks/999999": true,
		"meta.json": false, "chunks/1": false, "chunks/0000001": false, "chunks/00000a": false, "chunks/": false, "chunks": false,
		"../index": false, "chunks/../index": false, "/index": false, "index/": false, "": false, "chunks/000001/x": false, "deletion-mark.json": false,
	} {
		require.Equal(t, want, block.IsPart(path), path)
	}
}
