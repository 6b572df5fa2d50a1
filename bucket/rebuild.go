package bucket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"
)

// rebuildReads is how many meta.json are read at once.
const rebuildReads = 16

// rebuildIndex makes the index of a home from its blocks and stores it in the
// place of the one with an ETag. An ErrPrecondition says that somebody else
// stored one first, which may know of blocks that the listing did not show.
func rebuildIndex(ctx context.Context, b Bucket, home Key, old, why string) (*Index, string, error) {
	x, err := scanBlocks(ctx, b, home)
	if err != nil {
		return nil, "", fmt.Errorf("rebuild index of %s (%s): %w", home, why, err)
	}
	x.Rebuilt = why
	if len(x.Blocks) == 0 && old == "" {
		return x, "", nil
	}
	etag, err := storeIndex(ctx, b, home, x, old)
	switch {
	case errors.Is(err, ErrPrecondition):
		return nil, "", err
	case ctx.Err() != nil:
		return nil, "", err
	case err != nil:
		// Right all the same: who can read the blocks and not write, as over
		// another system's bucket, still gets an answer.
		x.Rebuilt += "; it could not be stored: " + err.Error()
		return x, old, nil
	}
	return x, etag, nil
}

// scan is what a listing of a home shows.
type scan struct {
	blocks map[ulid.ULID]*scannedBlock
	marked map[ulid.ULID]Key // one deletion mark of each marked block
}

type scannedBlock struct {
	files    []File
	uploaded time.Time // zero: there is no meta.json
}

// scanBlocks makes an index from what there is: one listing, the meta.json of
// each block, and then the marks, so that one that is written meanwhile counts.
func scanBlocks(ctx context.Context, b Bucket, home Key) (*Index, error) {
	s, err := listBlocks(ctx, b, home)
	if err != nil {
		return nil, err
	}
	x := &Index{}
	if err := s.readMetas(ctx, b, home, x); err != nil {
		return nil, err
	}
	if err := s.readMarks(ctx, b, home, x); err != nil {
		return nil, err
	}
	x.normalize()
	return x, nil
}

func (s *scan) readMetas(ctx context.Context, b Bucket, home Key, x *Index) error {
	var mu sync.Mutex // guards x
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(rebuildReads)
	for id, sb := range s.blocks {
		if sb.uploaded.IsZero() {
			continue
		}
		g.Go(func() error {
			meta, err := ReadMeta(gctx, b, home, id)
			if errors.Is(err, ErrNotFound) { // deleted meanwhile
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			x.Blocks = append(x.Blocks, newIndexBlock(meta, sb.files, sb.uploaded))
			return nil
		})
	}
	return g.Wait()
}

func (s *scan) readMarks(ctx context.Context, b Bucket, home Key, x *Index) error {
	if len(x.Blocks) == 0 {
		return nil
	}
	markers, err := ReadMarkers(ctx, b, home)
	if err != nil {
		return err
	}
	maps.Copy(s.marked, markers.Deletion)
	listed := map[ulid.ULID]bool{}
	for i := range x.Blocks {
		listed[x.Blocks[i].ID] = true
	}
	var mu sync.Mutex // guards x
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(rebuildReads)
	for id, key := range s.marked {
		if !listed[id] {
			continue
		}
		g.Go(func() error {
			mark, err := readDeletionMark(gctx, b, id, key)
			if errors.Is(err, ErrNotFound) { // taken back meanwhile
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			x.BlockDeletionMarks = append(x.BlockDeletionMarks, mark)
			return nil
		})
	}
	return g.Wait()
}

func listBlocks(ctx context.Context, b Bucket, home Key) (*scan, error) {
	s := &scan{blocks: map[ulid.ULID]*scannedBlock{}, marked: map[ulid.ULID]Key{}}
	for obj, err := range b.List(ctx, home.Folder(), true) {
		if err != nil {
			return nil, err
		}
		s.add(home, obj)
	}
	return s, nil
}

func (s *scan) add(home Key, obj Object) {
	rel := strings.TrimPrefix(string(obj.Key), string(home.Folder()))
	folder, rest, ok := strings.Cut(rel, "/")
	if !ok {
		return
	}
	id, ok := ParseBlockID(folder)
	if !ok {
		return
	}
	sb := s.blocks[id]
	if sb == nil {
		sb = &scannedBlock{}
		s.blocks[id] = sb
	}
	switch rest {
	case MetaFile:
		sb.uploaded = obj.Modified
	case DeletionMarkFile:
		s.marked[id] = obj.Key
	default:
		sb.files = append(sb.files, File{RelPath: rest, SizeBytes: obj.Size})
	}
}

func readDeletionMark(ctx context.Context, b Bucket, id ulid.ULID, key Key) (IndexDeletionMark, error) {
	content, _, err := ReadAll(ctx, b, key)
	if err != nil {
		return IndexDeletionMark{}, err
	}
	var mark struct {
		DeletionTime int64 `json:"deletion_time"`
	}
	if err := json.Unmarshal(content, &mark); err != nil {
		return IndexDeletionMark{}, fmt.Errorf("parse %s: %w", key, err)
	}
	return IndexDeletionMark{ID: id, DeletionTime: mark.DeletionTime}, nil
}
