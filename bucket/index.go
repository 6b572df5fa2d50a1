package bucket

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
)

// Index is the list of a home's blocks, so that readers need not list the
// bucket. Its format is that of Cortex and Mimir, which ignore what we add.
type Index struct {
	Version            int                 `json:"version"`
	Blocks             []IndexBlock        `json:"blocks"` // in order of ID
	BlockDeletionMarks []IndexDeletionMark `json:"block_deletion_marks"`
	UpdatedAt          int64               `json:"updated_at"` // seconds

	// Writer is "hearth" in an index that changes with every block. Others
	// write theirs every few minutes, so it may lack blocks.
	Writer string `json:"writer,omitempty"`

	// Rebuilt says why ReadIndex has made this index anew from the blocks
	// themselves; empty when it was read.
	Rebuilt string `json:"-"`
}

// IndexBlock is what a reader has to know of a block before it opens it.
type IndexBlock struct {
	ID               ulid.ULID `json:"block_id"`
	MinTime          int64     `json:"min_time"` // ms, inclusive
	MaxTime          int64     `json:"max_time"` // ms, exclusive
	SegmentsFormat   string    `json:"segments_format,omitempty"`
	SegmentsNum      int       `json:"segments_num,omitempty"`
	UploadedAt       int64     `json:"uploaded_at"` // seconds
	CompactorShardID string    `json:"compactor_shard_id,omitempty"`
	CompactionLevel  int       `json:"compaction_level,omitempty"`
	OutOfOrder       bool      `json:"out_of_order,omitempty"`

	// What only we write. Sizes are in bytes.
	Size         int64   `json:"size,omitempty"`          // of all files except meta.json
	IndexSize    int64   `json:"index_size,omitempty"`    // of the file index
	SegmentSizes []int64 `json:"segment_sizes,omitempty"` // of chunks/000001 and so on
	Series       uint64  `json:"series,omitempty"`
	Samples      uint64  `json:"samples,omitempty"`
}

// IndexDeletionMark says that a block is to go. It stays listed until it does.
type IndexDeletionMark struct {
	ID           ulid.ULID `json:"block_id"`
	DeletionTime int64     `json:"deletion_time"` // seconds, when the mark was made
}

const (
	indexVersion = 1

	// segmentsNumbered is what Cortex calls segments 000001, 000002 and so on.
	segmentsNumbered = "1b6d"

	// writer marks what we write, in indexes and in meta.json.
	writer = "hearth"
)

// Overlaps says whether the block may have samples between minT and maxT, both
// inclusive.
func (b *IndexBlock) Overlaps(minT, maxT int64) bool {
	return b.MinTime <= maxT && minT < b.MaxTime
}

// Block finds a block; nil if the index has none with this ID. What it points
// to moves with the next AddBlock or RemoveBlock.
func (x *Index) Block(id ulid.ULID) *IndexBlock {
	i, ok := x.search(id)
	if !ok {
		return nil
	}
	return &x.Blocks[i]
}

func (x *Index) search(id ulid.ULID) (int, bool) {
	return slices.BinarySearchFunc(x.Blocks, id, func(b IndexBlock, id ulid.ULID) int { return b.ID.Compare(id) })
}

// AddBlock lists a block, or replaces its entry.
func (x *Index) AddBlock(b IndexBlock) {
	i, ok := x.search(b.ID)
	if ok {
		x.Blocks[i] = b
		return
	}
	x.Blocks = slices.Insert(x.Blocks, i, b)
}

// RemoveBlock takes a block and its deletion mark off the list.
func (x *Index) RemoveBlock(id ulid.ULID) {
	if i, ok := x.search(id); ok {
		x.Blocks = slices.Delete(x.Blocks, i, i+1)
	}
	x.BlockDeletionMarks = slices.DeleteFunc(x.BlockDeletionMarks, func(m IndexDeletionMark) bool { return m.ID == id })
}

// MarkDeletion says of a listed block that it is to go; where that was said
// before, the earlier time stays.
func (x *Index) MarkDeletion(id ulid.ULID, at time.Time) {
	if x.Block(id) == nil || x.Marked(id) {
		return
	}
	x.BlockDeletionMarks = append(x.BlockDeletionMarks, IndexDeletionMark{ID: id, DeletionTime: at.Unix()})
}

// Marked says whether a block is to go, so that readers leave it out.
func (x *Index) Marked(id ulid.ULID) bool {
	return slices.ContainsFunc(x.BlockDeletionMarks, func(m IndexDeletionMark) bool { return m.ID == id })
}

// HasBlock says whether a home's index has a block with samples between minT
// and maxT (inclusive), or one that a compaction has put it into. That costs a
// read of meta.json for each compacted block of those times.
func HasBlock(ctx context.Context, b Bucket, home Key, x *Index, id ulid.ULID, minT, maxT int64) (bool, error) {
	if x.Block(id) != nil {
		return true, nil
	}
	for i := range x.Blocks {
		other := &x.Blocks[i]
		if other.CompactionLevel < 2 || !other.Overlaps(minT, maxT) || x.Marked(other.ID) {
			continue
		}
		m, err := ReadMeta(ctx, b, home, other.ID)
		if errors.Is(err, ErrNotFound) { // deleted meanwhile
			continue
		}
		if err != nil {
			return false, err
		}
		if slices.Contains(m.Compaction.Sources, id) {
			return true, nil
		}
	}
	return false, nil
}

// normalize brings the lists into order, as those that others wrote need not
// be, and makes them print as lists when they are empty.
func (x *Index) normalize() {
	x.Version, x.Writer = indexVersion, writer
	slices.SortFunc(x.Blocks, func(a, b IndexBlock) int { return a.ID.Compare(b.ID) })
	slices.SortFunc(x.BlockDeletionMarks, func(a, b IndexDeletionMark) int { return a.ID.Compare(b.ID) })
	if x.Blocks == nil {
		x.Blocks = []IndexBlock{}
	}
	if x.BlockDeletionMarks == nil {
		x.BlockDeletionMarks = []IndexDeletionMark{}
	}
}

// newIndexBlock makes a block's entry. Sizes are those of meta.json where it
// has them: it was written after all files, while a listing of a block that is
// just being uploaded may show some of them only.
func newIndexBlock(m *Meta, listed []File, uploadedAt time.Time) IndexBlock {
	b := IndexBlock{
		ID:               m.ULID,
		MinTime:          m.MinTime,
		MaxTime:          m.MaxTime,
		UploadedAt:       uploadedAt.Unix(),
		CompactorShardID: m.Thanos.Labels[ShardLabel],
		CompactionLevel:  m.Compaction.Level,
		OutOfOrder:       m.Compaction.FromOutOfOrder(),
		Series:           m.Stats.NumSeries,
		Samples:          m.Stats.NumSamples,
	}
	files := m.Thanos.Files
	if !slices.ContainsFunc(files, func(f File) bool { return f.RelPath == IndexFile && f.SizeBytes > 0 }) {
		files = listed
	}
	files = slices.SortedFunc(slices.Values(files), func(x, y File) int { return cmp.Compare(x.RelPath, y.RelPath) })
	for _, f := range files {
		if isMark(f.RelPath) {
			continue
		}
		b.Size += f.SizeBytes
		switch f.RelPath {
		case IndexFile:
			b.IndexSize = f.SizeBytes
		case fmt.Sprintf("%s/%06d", ChunksDir, len(b.SegmentSizes)+1):
			b.SegmentSizes = append(b.SegmentSizes, f.SizeBytes)
		}
	}
	if b.SegmentsNum = len(b.SegmentSizes); b.SegmentsNum > 0 {
		b.SegmentsFormat = segmentsNumbered
	}
	return b
}

// isMark says of a file in a block's folder that it is about the block, not a
// part of it.
func isMark(rel string) bool {
	switch rel {
	case MetaFile, DeletionMarkFile, NoCompactMarkFile, UploadingMetaFile, ValidationFile:
		return true
	default:
		return false
	}
}

func encodeIndex(x *Index) ([]byte, error) {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if err := json.NewEncoder(w).Encode(x); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func decodeIndex(content []byte) (*Index, error) {
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	x := &Index{}
	return x, json.Unmarshal(plain, x)
}

// maxIndexTries bounds how often a change of an index is tried. Each time
// somebody loses, somebody else has won, so it takes as many writers at once
// for one of them to give up.
const maxIndexTries = 100

// ReadIndex reads the index of a home, and its ETag for a conditional Put.
//
// An index that is missing, cannot be decoded, or is not ours is made anew from
// the meta.json of all blocks and stored, so that the bucket of a Prometheus
// family member opens as it is, and no block is lost with a broken index;
// Index.Rebuilt says so. Where it cannot be stored the answer is right all the
// same, and the next call does the work again. A home without blocks has an
// empty index, which is not stored: its ETag is "".
func ReadIndex(ctx context.Context, b Bucket, home Key) (x *Index, etag string, err error) {
	key := IndexKey(home)
	for range maxIndexTries {
		content, obj, err := ReadAll(ctx, b, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, "", fmt.Errorf("read index of %s: %w", home, err)
		}
		x, why := usableIndex(content, err == nil)
		if why == "" {
			return x, obj.ETag, nil
		}
		x, etag, err := rebuildIndex(ctx, b, home, obj.ETag, why)
		if !errors.Is(err, ErrPrecondition) {
			return x, etag, err
		}
	}
	return nil, "", fmt.Errorf("read index of %s: it changes faster than it can be rebuilt: %w", home, ErrPrecondition)
}

// PeekIndex is ReadIndex for those who only look: it stores nothing, so that a
// bucket of others is left as it is. The empty home has blocks at the root of
// the bucket, as Thanos' have.
func PeekIndex(ctx context.Context, b Bucket, home Key) (*Index, error) {
	content, _, err := ReadAll(ctx, b, IndexKey(home))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("read index of %s: %w", home, err)
	}
	x, why := usableIndex(content, err == nil)
	if why == "" {
		return x, nil
	}
	if x, err = scanBlocks(ctx, b, home); err != nil {
		return nil, fmt.Errorf("list blocks of %s: %w", home, err)
	}
	x.Rebuilt = why
	return x, nil
}

// usableIndex decodes an index, or says why that is not enough.
func usableIndex(content []byte, exists bool) (x *Index, why string) {
	if !exists {
		return nil, "there was none"
	}
	x, err := decodeIndex(content)
	switch {
	case err != nil:
		return nil, "it was broken: " + err.Error()
	case x.Writer != writer:
		return nil, "it was written by another system, which lists a block some time after its upload"
	}
	return x, ""
}

// UpdateIndex changes the index of a home: reads it, calls change, and stores
// it if nobody else has changed it meanwhile, or else starts again. change may
// so be called several times, each time with a fresh index; its error ends the
// update. Nothing is stored when change changes nothing.
func UpdateIndex(ctx context.Context, b Bucket, home Key, change func(*Index) error) error {
	for try := range maxIndexTries {
		x, etag, err := ReadIndex(ctx, b, home)
		if err != nil {
			return err
		}
		err = changeIndex(ctx, b, home, x, etag, change)
		if !errors.Is(err, ErrPrecondition) {
			return err
		}
		if err := pause(ctx, min(10*time.Millisecond<<min(try, 10), 2*time.Second)); err != nil {
			return fmt.Errorf("update index of %s: %w", home, err)
		}
	}
	return fmt.Errorf("update index of %s: others were faster %d times: %w", home, maxIndexTries, ErrPrecondition)
}

func changeIndex(ctx context.Context, b Bucket, home Key, x *Index, etag string, change func(*Index) error) error {
	x.normalize()
	before, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("update index of %s: %w", home, err)
	}
	if err := change(x); err != nil {
		return err
	}
	x.normalize()
	after, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("update index of %s: %w", home, err)
	}
	if bytes.Equal(before, after) {
		return nil
	}
	_, err = storeIndex(ctx, b, home, x, etag)
	return err
}

// storeIndex puts an index in the place of the one with an ETag; "": of none.
func storeIndex(ctx context.Context, b Bucket, home Key, x *Index, old string) (etag string, err error) {
	x.normalize()
	x.UpdatedAt = time.Now().Unix()
	content, err := encodeIndex(x)
	if err != nil {
		return "", fmt.Errorf("encode index of %s: %w", home, err)
	}
	cond := Condition{IfAbsent: old == "", IfMatch: old}
	etag, err = b.Put(ctx, IndexKey(home), bytes.NewReader(content), int64(len(content)), cond)
	if err != nil {
		return "", fmt.Errorf("store index of %s: %w", home, err)
	}
	return etag, nil
}
