package compactor_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// TestLeftovers has folders of blocks that no index has: what was given up
// long ago goes, what may still be under way stays, and what another system
// has put there is listed.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	dir := t.TempDir()
	w.bucket = folderAt(t, dir)
	kept := w.upload("own", only("own", dayStart(9)))
	unlisted := func(day int64, age time.Duration, change func(id ulid.ULID)) ulid.ULID {
		block := makeBlock(t, "own", only("own", dayStart(day)))
		_, err := bucket.StoreBlock(t.Context(), w.bucket, "own", block)
		require.NoError(t, err)
		id := ulid.MustParse(filepath.Base(block))
		change(id)
		at := time.Now().Add(-age)
		err = filepath.WalkDir(filepath.Join(dir, "bucket", "own", id.String()), func(path string, _ fs.DirEntry, err error) error {
			require.NoError(t, err)
			return os.Chtimes(path, at, at)
		})
		require.NoError(t, err)
		return id
	}
	noMeta := func(id ulid.ULID) {
		require.NoError(t, w.bucket.Delete(t.Context(), bucket.BlockKey("own", id, bucket.MetaFile)))
	}
	never := func(ulid.ULID) {}
	ofOurs := func(id ulid.ULID) {
		content, _, err := bucket.ReadAll(t.Context(), w.bucket, bucket.BlockKey("own", id, bucket.MetaFile))
		require.NoError(t, err)
		put(t, w.bucket, bucket.BlockKey("own", id, bucket.MetaFile), replaceSource(t, content))
	}
	marked := func(id ulid.ULID) { put(t, w.bucket, bucket.BlockKey("own", id, bucket.DeletionMarkFile), "{}") }

	gone := []ulid.ULID{unlisted(3, 30*time.Hour, noMeta), unlisted(4, 30*time.Hour, ofOurs), unlisted(5, 30*time.Hour, marked)}
	stay := []ulid.ULID{unlisted(3, 20*time.Hour, noMeta), unlisted(4, 20*time.Hour, ofOurs), unlisted(5, time.Minute, never)}
	foreign := unlisted(6, 2*time.Hour, never)

	require.NoError(t, w.compactor(w.bucket, 0, forEver).Round(t.Context()))
	var listed []ulid.ULID
	for _, b := range w.live("own") {
		listed = append(listed, b.ID)
	}
	require.ElementsMatch(t, []ulid.ULID{kept, foreign}, listed)
	for _, id := range gone {
		require.Zero(t, w.objects(bucket.BlockKey("own", id)))
	}
	for _, id := range stay {
		require.NotZero(t, w.objects(bucket.BlockKey("own", id)))
	}
	// Somebody comes again for those that were too young, and for nothing else.
	for in, want := range map[time.Duration]bool{10 * time.Minute: false, 2 * time.Hour: true} {
		due, err := bucket.ListDue(t.Context(), w.bucket, time.Now().Add(in-time.Hour+time.Minute))
		require.NoError(t, err)
		require.Equal(t, want, due["own"] != nil, "%s from now: %v", in, due)
	}
}

// replaceSource makes a meta.json that of a compaction of ours.
func replaceSource(t *testing.T, content []byte) string {
	t.Helper()
	require.Contains(t, string(content), `"hearth"`)
	return strings.Replace(string(content), `"hearth"`, `"hearth-compactor"`, 1)
}
