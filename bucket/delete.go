package bucket

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"
)

// deletesAtOnce is how many blocks are deleted at once.
const deletesAtOnce = 8

// DeleteBlock removes a block: from the index first, so that no reader begins
// with it; then meta.json, so that it does not exist any more; then the rest,
// its marks last, so that a deletion that was broken off can be seen. Calling
// it again completes it; a block that is not there is no error.
func DeleteBlock(ctx context.Context, b Bucket, home Key, id ulid.ULID) error {
	if err := unlist(ctx, b, home, id); err != nil {
		return err
	}
	markers, err := listMarkers(ctx, b, home)
	if err != nil {
		return fmt.Errorf("delete block %s: %w", id, err)
	}
	return deleteObjects(ctx, b, home, id, markers)
}

// DeleteMarked removes blocks that have a deletion mark in the index, so that
// readers leave them out already. Their entries go last, all at once: what was
// broken off is still listed to be deleted, and never comes back.
func DeleteMarked(ctx context.Context, b Bucket, home Key, ids []ulid.ULID) error {
	if len(ids) == 0 {
		return nil
	}
	if err := DeleteUnlisted(ctx, b, home, ids); err != nil {
		return err
	}
	return unlist(ctx, b, home, ids...)
}

// DeleteUnlisted removes the objects of blocks, and their marks, and leaves the
// index alone.
func DeleteUnlisted(ctx context.Context, b Bucket, home Key, ids []ulid.ULID) error {
	if len(ids) == 0 {
		return nil
	}
	markers, err := listMarkers(ctx, b, home)
	if err != nil {
		return fmt.Errorf("delete blocks of %s: %w", home, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesAtOnce)
	for _, id := range ids {
		g.Go(func() error { return deleteObjects(ctx, b, home, id, markers) })
	}
	return g.Wait()
}

func unlist(ctx context.Context, b Bucket, home Key, ids ...ulid.ULID) error {
	err := UpdateIndex(ctx, b, home, func(x *Index) error {
		for _, id := range ids {
			x.RemoveBlock(id)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete blocks of %s: %w", home, err)
	}
	return nil
}

func deleteObjects(ctx context.Context, b Bucket, home Key, id ulid.ULID, markers []Key) error {
	keys, err := deletionOrder(ctx, b, home, id, markers)
	if err != nil {
		return fmt.Errorf("delete block %s: %w", id, err)
	}
	for _, key := range keys {
		if err := b.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete block %s: %w", id, err)
		}
	}
	return nil
}

func deletionOrder(ctx context.Context, b Bucket, home Key, id ulid.ULID, markers []Key) ([]Key, error) {
	there, err := blockObjects(ctx, b, home, id)
	if err != nil {
		return nil, err
	}
	// meta.json first even if the listing does not show it: it may have been
	// written just now.
	keys := []Key{BlockKey(home, id, MetaFile)}
	marks := []Key{}
	for key := range there {
		switch {
		case key.Base() == MetaFile:
		case isMark(key.Base()):
			marks = append(marks, key)
		default:
			keys = append(keys, key)
		}
	}
	slices.Sort(keys[1:])
	slices.Sort(marks)
	keys = append(keys, marks...)
	for _, key := range markers {
		if strings.HasPrefix(key.Base(), id.String()+"-") {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func listMarkers(ctx context.Context, b Bucket, home Key) ([]Key, error) {
	var keys []Key
	for obj, err := range b.List(ctx, MarkersFolder(home), false) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, obj.Key)
	}
	return keys, nil
}
