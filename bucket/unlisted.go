package bucket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// Unlisted is a folder of a block that the home's index does not have: an
// upload or a deletion that is under way or was broken off, or a block that
// another system wrote.
type Unlisted struct {
	ID      ulid.ULID
	Changed time.Time // when the newest of its objects was written
	Marked  bool      // it has a deletion mark
	Meta    *Meta     // nil: there is none, so the block does not exist
	Entry   IndexBlock
}

// FindUnlisted looks at the folders of a home that an index does not have. It
// costs a listing of the folders, and one or two requests for each found.
func FindUnlisted(ctx context.Context, b Bucket, home Key, x *Index) ([]Unlisted, error) {
	var found []Unlisted
	for obj, err := range b.List(ctx, home.Folder(), false) {
		if err != nil {
			return nil, fmt.Errorf("list blocks of %s: %w", home, err)
		}
		id, ok := ParseBlockID(obj.Key.Base())
		if !ok || !strings.HasSuffix(string(obj.Key), "/") || x.Block(id) != nil {
			continue
		}
		u, err := lookAt(ctx, b, home, id)
		if err != nil {
			return nil, fmt.Errorf("look at block %s: %w", id, err)
		}
		found = append(found, u)
	}
	return found, nil
}

func lookAt(ctx context.Context, b Bucket, home Key, id ulid.ULID) (Unlisted, error) {
	u := Unlisted{ID: id}
	var files []File
	var uploaded time.Time
	for obj, err := range b.List(ctx, BlockKey(home, id).Folder(), true) {
		if err != nil {
			return u, err
		}
		if obj.Modified.After(u.Changed) {
			u.Changed = obj.Modified
		}
		switch rel := strings.TrimPrefix(string(obj.Key), string(BlockKey(home, id).Folder())); rel {
		case MetaFile:
			uploaded = obj.Modified
		case DeletionMarkFile:
			u.Marked = true
		default:
			files = append(files, File{RelPath: rel, SizeBytes: obj.Size})
		}
	}
	if uploaded.IsZero() {
		return u, nil
	}
	meta, err := ReadMeta(ctx, b, home, id)
	if errors.Is(err, ErrNotFound) { // deleted meanwhile
		return u, nil
	}
	if err != nil {
		return u, err
	}
	u.Meta, u.Entry = meta, newIndexBlock(meta, slices.Clone(files), uploaded)
	return u, nil
}

// ListBlock lists the files of a block, without meta.json and marks.
func ListBlock(ctx context.Context, b Bucket, home Key, id ulid.ULID) ([]File, error) {
	there, err := blockObjects(ctx, b, home, id)
	if err != nil {
		return nil, fmt.Errorf("list block %s: %w", id, err)
	}
	var files []File
	for key, size := range there {
		if rel := strings.TrimPrefix(string(key), string(BlockKey(home, id).Folder())); !isMark(rel) {
			files = append(files, File{RelPath: rel, SizeBytes: size})
		}
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.RelPath, b.RelPath) })
	return files, nil
}
