package block

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
)

// ErrIncomplete: the files of a block are not those that its meta.json says.
var ErrIncomplete = errors.New("the block is not complete")

// Fetch brings a block of a home into the folder dir, which it makes: its
// meta.json, and what Files finds.
func Fetch(ctx context.Context, b bucket.Bucket, home bucket.Key, id ulid.ULID, dir string) error {
	meta, err := bucket.ReadMeta(ctx, b, home, id)
	if err != nil {
		return err
	}
	files, err := Files(ctx, b, home, meta)
	if err != nil {
		return err
	}
	if err := FetchFiles(ctx, b, home, id, files, dir); err != nil {
		return err
	}
	return bucket.FetchFile(ctx, b, bucket.BlockKey(home, id, bucket.MetaFile), filepath.Join(dir, bucket.MetaFile))
}

// Files is what belongs to a block besides meta.json, in the sizes that its
// meta.json says, or, where that does not say, that there are.
func Files(ctx context.Context, b bucket.Bucket, home bucket.Key, meta *bucket.Meta) ([]bucket.File, error) {
	said := map[string]int64{}
	for _, f := range meta.Thanos.Files {
		said[f.RelPath] = f.SizeBytes
	}
	there, err := bucket.ListBlock(ctx, b, home, meta.ULID)
	if err != nil {
		return nil, err
	}
	var files []bucket.File
	for _, f := range there {
		if !IsPart(f.RelPath) {
			continue
		}
		if size := said[f.RelPath]; size > 0 && size != f.SizeBytes {
			return nil, fmt.Errorf("%w: %s has %d bytes, %s says %d", ErrIncomplete, f.RelPath, f.SizeBytes, bucket.MetaFile, size)
		}
		delete(said, f.RelPath)
		files = append(files, f)
	}
	for rel, size := range said {
		if size > 0 && IsPart(rel) {
			return nil, fmt.Errorf("%w: %s is missing", ErrIncomplete, rel)
		}
	}
	return files, nil
}

// IsPart says whether a path below a block's folder is that of a file which
// readers of the block need: the index, a segment of chunks, tombstones.
func IsPart(rel string) bool {
	if rel == bucket.IndexFile || rel == bucket.TombstonesFile {
		return true
	}
	const prefix = bucket.ChunksDir + "/"
	if len(rel) != len(prefix)+6 || rel[:len(prefix)] != prefix {
		return false
	}
	for _, c := range rel[len(prefix):] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// FetchFiles brings files of a block into the folder dir, which it makes.
func FetchFiles(ctx context.Context, b bucket.Bucket, home bucket.Key, id ulid.ULID, files []bucket.File, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, bucket.ChunksDir), 0o777); err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.RelPath))
		if err := bucket.FetchFile(ctx, b, bucket.BlockKey(home, id, f.RelPath), path); err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() != f.SizeBytes {
			return fmt.Errorf("%s of block %s has %d bytes, %d were expected", f.RelPath, id, info.Size(), f.SizeBytes)
		}
	}
	return nil
}
