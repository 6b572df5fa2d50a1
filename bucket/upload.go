package bucket

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
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
	entry, err := StoreBlock(ctx, b, home, dir)
	if err != nil {
		return err
	}
	if err := listBlock(ctx, b, home, entry); err != nil {
		return fmt.Errorf("upload block %s: %w", entry.ID, err)
	}
	return nil
}

// PublishBlock makes a block exist whose files are in the bucket already, in
// the sizes that meta says: it stores meta.json and lists the block in the
// home's index. Calling it once more completes what was begun.
func PublishBlock(ctx context.Context, b Bucket, home Key, meta *Meta) error {
	err := putMeta(ctx, b, home, meta)
	if err == nil {
		err = listBlock(ctx, b, home, newIndexBlock(meta, nil, time.Now()))
	}
	if err != nil {
		return fmt.Errorf("publish block %s: %w", meta.ULID, err)
	}
	return nil
}

func listBlock(ctx context.Context, b Bucket, home Key, entry IndexBlock) error {
	return UpdateIndex(ctx, b, home, func(x *Index) error {
		if x.Block(entry.ID) == nil {
			x.AddBlock(entry)
		}
		return nil
	})
}

// StoreBlock is UploadBlock without the last step: no reader knows of the
// block until the entry that it returns is in the home's index.
func StoreBlock(ctx context.Context, b Bucket, home Key, dir string) (IndexBlock, error) {
	files, err := localFiles(dir)
	if err != nil {
		return IndexBlock{}, fmt.Errorf("upload block %s: %w", dir, err)
	}
	meta, err := localMeta(dir, files)
	if err != nil {
		return IndexBlock{}, fmt.Errorf("upload block %s: read %s: %w", dir, MetaFile, err)
	}
	if err := uploadFiles(ctx, b, home, dir, meta, files); err != nil {
		return IndexBlock{}, fmt.Errorf("upload block %s: %w", meta.ULID, err)
	}
	return newIndexBlock(meta, files, time.Now()), nil
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
	return putMeta(ctx, b, home, meta)
}

func putMeta(ctx context.Context, b Bucket, home Key, meta *Meta) error {
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
