package bucket

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// UploadBlock stores the block in dir, whose meta.json names it, under home,
// and lists it in the home's index.
//
// Chunks and the index go first, then what else is in dir, meta.json last: a
// block without it does not exist for readers. What is there already in the
// same size is not sent again, so that calling it once more, after an error or
// a crash at any point, completes what was begun; for a block that is complete
// it costs one listing and one read of the index.
func UploadBlock(ctx context.Context, b Bucket, home Key, dir string) error {
	files, err := localFiles(dir)
	if err != nil {
		return fmt.Errorf("upload block %s: %w", dir, err)
	}
	meta, err := localMeta(dir, files)
	if err != nil {
		return fmt.Errorf("upload block %s: read %s: %w", dir, MetaFile, err)
	}
	if err := uploadFiles(ctx, b, home, dir, meta, files); err != nil {
		return fmt.Errorf("upload block %s: %w", meta.ULID, err)
	}
	entry := newIndexBlock(meta, files, time.Now())
	err = UpdateIndex(ctx, b, home, func(x *Index) error {
		if x.Block(entry.ID) == nil {
			x.AddBlock(entry)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("upload block %s: %w", meta.ULID, err)
	}
	return nil
}

func uploadFiles(ctx context.Context, b Bucket, home Key, dir string, meta *Meta, files []File) error {
	there, err := blockObjects(ctx, b, home, meta.ULID)
	if err != nil {
		return err
	}
	for _, f := range files {
		key := BlockKey(home, meta.ULID, f.RelPath)
		if size, ok := there[key]; ok && size == f.SizeBytes {
			continue
		}
		if err := putFile(ctx, b, key, filepath.Join(dir, filepath.FromSlash(f.RelPath)), f.SizeBytes); err != nil {
			return err
		}
	}
	if _, ok := there[BlockKey(home, meta.ULID, MetaFile)]; ok {
		return nil
	}
	content, err := json.MarshalIndent(meta, "", "\t")
	if err != nil {
		return fmt.Errorf("encode %s: %w", MetaFile, err)
	}
	_, err = b.Put(ctx, BlockKey(home, meta.ULID, MetaFile), bytes.NewReader(content), int64(len(content)), Condition{})
	return err
}

// blockObjects lists the objects of a block with their sizes.
func blockObjects(ctx context.Context, b Bucket, home Key, id ulid.ULID) (map[Key]int64, error) {
	there := map[Key]int64{}
	for obj, err := range b.List(ctx, BlockKey(home, id).Folder(), true) {
		if err != nil {
			return nil, err
		}
		there[obj.Key] = obj.Size
	}
	return there, nil
}

func putFile(ctx context.Context, b Bucket, key Key, path string, size int64) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = b.Put(ctx, key, file, size, Condition{})
	return err
}

// DeleteBlock removes a block: from the index first, so that no reader begins
// with it; then meta.json, so that it does not exist any more; then the rest,
// its marks last, so that a deletion that was broken off can be seen. Calling
// it again completes it; a block that is not there is no error.
func DeleteBlock(ctx context.Context, b Bucket, home Key, id ulid.ULID) error {
	err := UpdateIndex(ctx, b, home, func(x *Index) error {
		x.RemoveBlock(id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete block %s: %w", id, err)
	}
	keys, err := deletionOrder(ctx, b, home, id)
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

func deletionOrder(ctx context.Context, b Bucket, home Key, id ulid.ULID) ([]Key, error) {
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
	for obj, err := range b.List(ctx, MarkersFolder(home), false) {
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(obj.Key.Base(), id.String()+"-") {
			keys = append(keys, obj.Key)
		}
	}
	return keys, nil
}
