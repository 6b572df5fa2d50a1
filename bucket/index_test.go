package bucket

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// putIndex stores an index as another system writes it.
func putIndex(t testing.TB, b Bucket, home Key, content string) {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := io.WriteString(w, content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	put(t, b, IndexKey(home), buf.String())
}

// upload stores blocks and returns the bucket without an index.
func upload(t testing.TB, b Bucket, home Key, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		dir, _ := writeBlock(t, blockID(n))
		require.NoError(t, UploadBlock(t.Context(), b, home, dir))
	}
}

// TestIndexFormat pins what Cortex and Mimir read.
func TestIndexFormat(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	require.NoError(t, UpdateIndex(t.Context(), b, "tenant", func(x *Index) error {
		x.AddBlock(IndexBlock{ID: blockID(2), MinTime: 1, MaxTime: 2, SegmentsFormat: "1b6d", SegmentsNum: 1, UploadedAt: 7, Size: 9, IndexSize: 4, SegmentSizes: []int64{5}})
		x.AddBlock(IndexBlock{ID: blockID(1), MinTime: 1, MaxTime: 2, UploadedAt: 7, CompactorShardID: "1_of_4", CompactionLevel: 2, OutOfOrder: true})
		x.BlockDeletionMarks = append(x.BlockDeletionMarks, IndexDeletionMark{ID: blockID(1), DeletionTime: 8})
		return nil
	}))
	r, err := gzip.NewReader(bytes.NewReader([]byte(get(t, b, "tenant/bucket-index.json.gz"))))
	require.NoError(t, err)
	content, err := io.ReadAll(r)
	require.NoError(t, err)
	var stamp struct {
		UpdatedAt json.Number `json:"updated_at"`
	}
	require.NoError(t, json.Unmarshal(content, &stamp))
	require.JSONEq(t, `{"version":1,"blocks":[
		{"block_id":"`+blockID(1).String()+`","min_time":1,"max_time":2,"uploaded_at":7,"compactor_shard_id":"1_of_4","compaction_level":2,"out_of_order":true},
		{"block_id":"`+blockID(2).String()+`","min_time":1,"max_time":2,"segments_format":"1b6d","segments_num":1,"uploaded_at":7,"size":9,"index_size":4,"segment_sizes":[5]}
	],"block_deletion_marks":[{"block_id":"`+blockID(1).String()+`","deletion_time":8}],"updated_at":`+stamp.UpdatedAt.String()+`,"writer":"hearth"}`, string(content))
}

func TestIndexOfEmptyHome(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	x, etag, err := ReadIndex(t.Context(), b, "nobody")
	require.NoError(t, err)
	require.Empty(t, x.Blocks)
	require.Empty(t, etag)
	require.NoError(t, UpdateIndex(t.Context(), b, "nobody", func(*Index) error { return nil }))
	require.NoError(t, DeleteBlock(t.Context(), b, "nobody", blockID(1)))
	require.Empty(t, list(t, b, "", true), "asking for a tenant leaves nothing in the bucket")
}

// TestIndexRebuilt has every state of an index in which it cannot be used.
func TestIndexRebuilt(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, b Bucket){
		"missing": func(t *testing.T, b Bucket) { require.NoError(t, b.Delete(t.Context(), IndexKey("tenant"))) },
		"no gzip": func(t *testing.T, b Bucket) { put(t, b, IndexKey("tenant"), "garbage") },
		"empty":   func(t *testing.T, b Bucket) { put(t, b, IndexKey("tenant"), "") },
		"no JSON": func(t *testing.T, b Bucket) { putIndex(t, b, "tenant", "{") },
		"bad id": func(t *testing.T, b Bucket) {
			putIndex(t, b, "tenant", `{"version":1,"blocks":[{"block_id":"x"}],"writer":"hearth"}`)
		},
		"cut off": func(t *testing.T, b Bucket) { put(t, b, IndexKey("tenant"), get(t, b, IndexKey("tenant"))[:40]) },
		"of Mimir": func(t *testing.T, b Bucket) {
			putIndex(t, b, "tenant", `{"version":2,"blocks":[],"block_deletion_marks":[],"updated_at":1}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &lists{Bucket: openFolder(t, t.TempDir())}
			upload(t, b, "tenant", 1, 2, 3)
			before, _, err := ReadIndex(t.Context(), b, "tenant")
			require.NoError(t, err)
			require.Len(t, before.Blocks, 3)

			put(t, b, BlockKey("tenant", blockID(4), "index"), "of a block that is still being uploaded")
			put(t, b, BlockKey("tenant", blockID(1), DeletionMarkFile), `{"id":"`+blockID(1).String()+`","version":1,"deletion_time":11}`)
			put(t, b, MarkerKey("tenant", blockID(2), DeletionMarkFile), `{"id":"`+blockID(2).String()+`","version":1,"deletion_time":22}`)
			put(t, b, MarkerKey("tenant", blockID(9), DeletionMarkFile), `{"deletion_time":99}`) // of a block that is gone
			put(t, b, MarkerKey("tenant", blockID(3), NoCompactMarkFile), `{}`)
			put(t, b, "tenant/markers/tenant-deletion-mark.json", `{}`)
			put(t, b, "tenant/debug/notes", "nothing")
			spoil(t, b)

			x, etag, err := ReadIndex(t.Context(), b, "tenant")
			require.NoError(t, err)
			require.NotEmpty(t, x.Rebuilt)
			require.NotEmpty(t, etag)
			for i := range x.Blocks { // the time of meta.json instead of that of the entry
				require.InDelta(t, before.Blocks[i].UploadedAt, x.Blocks[i].UploadedAt, 5)
				x.Blocks[i].UploadedAt = before.Blocks[i].UploadedAt
			}
			require.Equal(t, before.Blocks, x.Blocks)
			require.Equal(t, []IndexDeletionMark{{blockID(1), 11}, {blockID(2), 22}}, x.BlockDeletionMarks)

			b.n = 0
			x, again, err := ReadIndex(t.Context(), b, "tenant")
			require.NoError(t, err)
			require.Empty(t, x.Rebuilt)
			require.Equal(t, etag, again)
			require.Zero(t, b.n, "the rebuilt index was stored")
		})
	}
}

// marking has somebody mark a block while an index is made anew.
type marking struct {
	Bucket
	mark func()
}

func (m *marking) Get(ctx context.Context, key Key) (io.ReadCloser, Object, error) {
	if m.mark != nil && key.Base() == MetaFile {
		m.mark()
		m.mark = nil
	}
	return m.Bucket.Get(ctx, key)
}

// TestIndexRebuiltWhileMarked has a mark written after the bucket was listed:
// the block must not count as one that stays.
func TestIndexRebuiltWhileMarked(t *testing.T) {
	t.Parallel()
	b := &marking{Bucket: openFolder(t, t.TempDir())}
	upload(t, b.Bucket, "tenant", 1)
	require.NoError(t, b.Delete(t.Context(), IndexKey("tenant")))
	b.mark = func() {
		require.NoError(t, WriteDeletionMark(t.Context(), b.Bucket, "tenant", blockID(1), "", time.Unix(11, 0)))
	}
	x, _, err := ReadIndex(t.Context(), b, "tenant")
	require.NoError(t, err)
	require.NotEmpty(t, x.Rebuilt)
	require.Equal(t, []IndexDeletionMark{{blockID(1), 11}}, x.BlockDeletionMarks)
}

// TestIndexOfOtherBlocks has blocks whose meta.json names no files, as
// Prometheus and old Thanos write it.
func TestIndexOfOtherBlocks(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	id := blockID(1)
	put(t, b, BlockKey("t", id, "chunks/000001"), "12345")
	put(t, b, BlockKey("t", id, "index"), "123")
	put(t, b, BlockKey("t", id, MetaFile), `{"ulid":"`+id.String()+`","minTime":5,"maxTime":10,"version":1,
		"compaction":{"level":3,"hints":["from-out-of-order"]},"thanos":{"labels":{"__compactor_shard_id__":"2_of_4"},"source":"compactor","segment_files":["000001"]}}`)
	x, _, err := ReadIndex(t.Context(), b, "t")
	require.NoError(t, err)
	require.Len(t, x.Blocks, 1)
	require.NotZero(t, x.Blocks[0].UploadedAt)
	x.Blocks[0].UploadedAt = 0
	require.Equal(t, IndexBlock{
		ID: id, MinTime: 5, MaxTime: 10, SegmentsFormat: "1b6d", SegmentsNum: 1, CompactorShardID: "2_of_4", CompactionLevel: 3, OutOfOrder: true,
		Size: 8, IndexSize: 3, SegmentSizes: []int64{5},
	}, x.Blocks[0])
	require.True(t, x.Blocks[0].Overlaps(0, 5))
	require.True(t, x.Blocks[0].Overlaps(9, 20))
	require.False(t, x.Blocks[0].Overlaps(10, 20), "the end is exclusive")
	require.False(t, x.Blocks[0].Overlaps(0, 4))
}

// TestIndexNamesBrokenMeta: a block that cannot be read is not left out.
func TestIndexNamesBrokenMeta(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"":              "parse",
		`{"version":9}`: "version 9",
		`{"version":1,"ulid":"` + blockID(2).String() + `"}`: "another block",
	} {
		b := openFolder(t, t.TempDir())
		put(t, b, BlockKey("t", blockID(1), MetaFile), content)
		_, _, err := ReadIndex(t.Context(), b, "t")
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, string(BlockKey("t", blockID(1), MetaFile)))
	}
}

// readOnly refuses to write.
type readOnly struct{ Bucket }

func (readOnly) Put(context.Context, Key, io.ReadSeeker, int64, Condition) (string, error) {
	return "", errInjected
}

func TestIndexWhereOneMayNotWrite(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	upload(t, b, "tenant", 1)
	require.NoError(t, b.Delete(t.Context(), IndexKey("tenant")))
	x, etag, err := ReadIndex(t.Context(), readOnly{b}, "tenant")
	require.NoError(t, err)
	require.Len(t, x.Blocks, 1)
	require.Empty(t, etag)
	require.Contains(t, x.Rebuilt, "injected")
	err = UpdateIndex(t.Context(), readOnly{b}, "tenant", func(x *Index) error {
		x.RemoveBlock(blockID(1))
		return nil
	})
	require.ErrorIs(t, err, errInjected)
}

func TestUpdateIndexEndsWithTheError(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	no := errors.New("no")
	require.ErrorIs(t, UpdateIndex(t.Context(), b, "t", func(*Index) error { return no }), no)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, UpdateIndex(ctx, b, "t", func(*Index) error { return nil }), context.Canceled)
}

// contended has somebody else win every race.
type contended struct{ Bucket }

func (contended) Put(context.Context, Key, io.ReadSeeker, int64, Condition) (string, error) {
	return "", ErrPrecondition
}

func TestUpdateIndexGivesUpWithContext(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	upload(t, b, "t", 1)
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := UpdateIndex(ctx, contended{b}, "t", func(x *Index) error {
		if tries++; tries == 3 {
			cancel()
		}
		x.RemoveBlock(blockID(1))
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 3, tries)
}
