package bucket

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

func TestUploadBlock(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	id := blockID(1)
	dir, files := writeBlock(t, id)
	require.NoError(t, UploadBlock(t.Context(), b, "tenant", dir))
	requireBlock(t, b, "tenant", id, files)

	// What Thanos and Mimir look for.
	var meta map[string]any
	require.NoError(t, json.Unmarshal([]byte(get(t, b, BlockKey("tenant", id, MetaFile))), &meta))
	require.Equal(t, id.String(), meta["ulid"])
	require.EqualValues(t, 1000, meta["minTime"])
	require.Equal(t, map[string]any{
		"version":    1.0,
		"labels":     map[string]any{},
		"downsample": map[string]any{"resolution": 0.0},
		"source":     "hearth",
		"files": []any{
			map[string]any{"rel_path": "chunks/000001", "size_bytes": float64(len(files["chunks/000001"]))},
			map[string]any{"rel_path": "chunks/000002", "size_bytes": float64(len(files["chunks/000002"]))},
			map[string]any{"rel_path": "index", "size_bytes": float64(len(files["index"]))},
			map[string]any{"rel_path": "meta.json"},
			map[string]any{"rel_path": "tenants.json", "size_bytes": float64(len(files["tenants.json"]))},
		},
	}, meta["thanos"])

	x, _, err := ReadIndex(t.Context(), b, "tenant")
	require.NoError(t, err)
	size := 0
	for _, content := range files {
		size += len(content)
	}
	entry := *x.Block(id)
	require.NotZero(t, entry.UploadedAt)
	entry.UploadedAt = 0
	require.Equal(t, IndexBlock{
		ID: id, MinTime: 1000, MaxTime: 3000, SegmentsFormat: "1b6d", SegmentsNum: 2, CompactionLevel: 1,
		Size: int64(size), IndexSize: int64(len(files["index"])),
		SegmentSizes: []int64{int64(len(files["chunks/000001"])), int64(len(files["chunks/000002"]))},
		Series:       3, Samples: 30,
	}, entry)
}

func TestUploadBlockRefusesBrokenBlocks(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	for file, want := range map[string]string{IndexFile: "no index", MetaFile: "meta.json"} {
		dir, _ := writeBlock(t, blockID(1))
		require.NoError(t, os.Remove(filepath.Join(dir, file)))
		require.ErrorContains(t, UploadBlock(t.Context(), b, "tenant", dir), want)
	}
	require.Empty(t, list(t, b, "", true))
}

// TestUploadBlockResumes breaks an upload off at each write, before and after
// its effect. No reader sees half a block, and the next call completes it.
func TestUploadBlockResumes(t *testing.T) {
	t.Parallel()
	id := blockID(1)
	dir, files := writeBlock(t, id)
	for _, after := range []bool{false, true} {
		for n := 0; ; n++ {
			b := &shaky{Bucket: openFolder(t, t.TempDir()), failAt: n, after: after}
			err := UploadBlock(t.Context(), b, "tenant", dir)
			if b.writes <= n {
				require.NoError(t, err)
				require.Equal(t, len(files)+2, n, "writes of an upload")
				break
			}
			t.Log(shakyName(b), err)
			b.failAt = -1
			x, err := scanBlocks(t.Context(), b.Bucket, "tenant")
			require.NoError(t, err)
			if x.Block(id) != nil { // meta.json is there, so all is
				for name, content := range files {
					require.Equal(t, content, get(t, b.Bucket, BlockKey("tenant", id, name)))
				}
			}
			first := b.writes
			require.NoError(t, UploadBlock(t.Context(), b, "tenant", dir))
			requireBlock(t, b.Bucket, "tenant", id, files)
			require.LessOrEqual(t, b.writes-first, len(files)+2-n, "%s: nothing is sent twice", shakyName(b))

			again := b.writes
			require.NoError(t, UploadBlock(t.Context(), b, "tenant", dir))
			require.Equal(t, again, b.writes, "a complete block is not written again")
		}
	}
}

func TestDeleteBlockResumes(t *testing.T) {
	t.Parallel()
	id, other := blockID(1), blockID(2)
	dir, files := writeBlock(t, id)
	otherDir, otherFiles := writeBlock(t, other)
	for _, after := range []bool{false, true} {
		for n := 0; ; n++ {
			b := &shaky{Bucket: openFolder(t, t.TempDir()), failAt: -1, after: after}
			require.NoError(t, UploadBlock(t.Context(), b, "tenant", dir))
			require.NoError(t, UploadBlock(t.Context(), b, "tenant", otherDir))
			put(t, b, BlockKey("tenant", id, DeletionMarkFile), "{}")
			put(t, b, MarkerKey("tenant", id, DeletionMarkFile), "{}")
			b.writes, b.failAt = 0, n
			err := DeleteBlock(t.Context(), b, "tenant", id)
			done := b.writes <= n
			b.failAt = -1
			if done {
				require.NoError(t, err)
				require.Equal(t, 1+len(files)+3, n, "writes of a deletion")
			} else {
				require.Error(t, err)
				_, err = ReadMeta(t.Context(), b, "tenant", id)
				if n > 1 {
					require.ErrorIs(t, err, ErrNotFound, "meta.json goes first")
				}
				require.NoError(t, DeleteBlock(t.Context(), b, "tenant", id))
			}
			require.Empty(t, list(t, b, BlockKey("tenant", id).Folder(), true))
			require.Empty(t, list(t, b, MarkersFolder("tenant"), true))
			requireBlock(t, b.Bucket, "tenant", other, otherFiles)
			x, _, err := ReadIndex(t.Context(), b, "tenant")
			require.NoError(t, err)
			require.Len(t, x.Blocks, 1)
			require.NoError(t, DeleteBlock(t.Context(), b, "tenant", id), "what is gone may be deleted again")
			if done {
				break
			}
		}
	}
}

// TestUploadBlocksAtOnce has many add and remove blocks of one home.
func TestUploadBlocksAtOnce(t *testing.T) {
	t.Parallel()
	for name, b := range eachBucket(t) {
		t.Run(name, func(t *testing.T) {
			const n = 16
			dirs, want := make([]string, n), []ulid.ULID{}
			for i := range dirs {
				dirs[i], _ = writeBlock(t, blockID(i))
				if i%2 == 0 {
					want = append(want, blockID(i))
				}
			}
			var wg sync.WaitGroup
			for i, dir := range dirs {
				wg.Go(func() {
					err := UploadBlock(t.Context(), b, PoolHome, dir)
					if err == nil && i%2 == 1 {
						err = DeleteBlock(t.Context(), b, PoolHome, blockID(i))
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			x, _, err := ReadIndex(t.Context(), b, PoolHome)
			require.NoError(t, err)
			got := []ulid.ULID{}
			for _, block := range x.Blocks {
				got = append(got, block.ID)
			}
			require.Equal(t, want, got)
			require.Empty(t, x.Rebuilt)
		})
	}
}

// eachBucket is a bucket of each kind.
func eachBucket(t *testing.T) map[string]Bucket {
	t.Helper()
	all := map[string]Bucket{"folder": openFolder(t, t.TempDir())}
	if !testing.Short() {
		all["s3"] = openS3(t, s3Config(t), defaultS3Bounds())
	}
	return all
}
