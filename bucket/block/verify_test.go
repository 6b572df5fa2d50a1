package block_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket/block"
)

// aBlock has floats and histograms of some series.
func aBlock(t testing.TB, r *rand.Rand) string {
	t.Helper()
	var in []storage.Series
	for host, samples := range random(r, 12, 10*day, 10*day+2*hour) {
		in = append(in, storage.NewListSeries(labels.FromStrings("__name__", "up", "host", host, "zone", host[len(host)-1:]), samples))
	}
	return makeBlock(t, in)
}

func TestVerifyCountsWhatIsThere(t *testing.T) {
	t.Parallel()
	dir := aBlock(t, rand.New(rand.NewPCG(1, 1)))
	meta, err := block.ReadMeta(dir)
	require.NoError(t, err)
	seen := 0
	st, err := block.Verify(t.Context(), dir, func(ls labels.Labels) error {
		require.NotEmpty(t, ls.Get("host"))
		seen++
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 12, seen)
	require.Equal(t, meta.Stats, st)

	no := errors.New("not this one")
	_, err = block.Verify(t.Context(), dir, func(labels.Labels) error { return no })
	require.Equal(t, no, err)
}

// TestVerifyFindsDamage flips bytes, cuts files off and takes them away: it is
// found, or all samples are read as before, and nothing panics.
func TestVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(2, 1))
	dir := aBlock(t, r)
	want := read(t, dir)
	bad := filepath.Join(t.TempDir(), "block")
	found, harmless := 0, 0
	rounds := 600
	if testing.Short() {
		rounds = 100
	}
	for range rounds {
		copyBlock(t, dir, bad)
		paths := files(t, bad)
		path := paths[r.IntN(len(paths))]
		what := damage(t, r, path)
		if _, err := block.Verify(t.Context(), bad, nil); err != nil {
			found++
			continue
		}
		harmless++
		got, err := tryRead(bad)
		require.NoError(t, err, what)
		require.Equal(t, want, got, what)
	}
	t.Logf("%d found, %d harmless", found, harmless)
	require.Greater(t, found, rounds/2)
}

func damage(t testing.TB, r *rand.Rand, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	switch r.IntN(10) {
	case 0:
		require.NoError(t, os.Remove(path))
		return "without " + path
	case 1:
		require.NoError(t, os.WriteFile(path, content[:r.IntN(len(content))], 0o666))
		return "cut off " + path
	default:
		content[r.IntN(len(content))] ^= byte(1 + r.IntN(255))
		require.NoError(t, os.WriteFile(path, content, 0o666))
		return "flipped a byte of " + path
	}
}

func TestVerifyHoldsTheBlockToItsTimes(t *testing.T) {
	t.Parallel()
	dir := aBlock(t, rand.New(rand.NewPCG(3, 1)))
	meta, err := block.ReadMeta(dir)
	require.NoError(t, err)
	meta.MaxTime = meta.MinTime + hour
	require.NoError(t, block.WriteMeta(dir, meta))
	_, err = block.Verify(t.Context(), dir, nil)
	require.ErrorContains(t, err, "outside of the block's")
}
