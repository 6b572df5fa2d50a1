package compactor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
)

// fetchesAtOnce is how many blocks of a job are fetched at once.
const fetchesAtOnce = 4

// badBlock says that a block itself is at fault, not what is around it.
type badBlock struct {
	id  ulid.ULID
	err error
}

func (b *badBlock) Error() string { return fmt.Sprintf("block %s: %s", b.id, b.err) }
func (b *badBlock) Unwrap() error { return b.err }

// errLost: the blocks of a job have changed since it was planned.
var errLost = errors.New("blocks have changed meanwhile")

// errDiskSpace: a job is larger than what the disk has left.
var errDiskSpace = errors.New("not enough space on the disk of data_dir")

// fetch downloads the blocks of a job below dir and returns their folders, in
// the order of the job.
func (c *Compactor) fetch(ctx context.Context, j *job, dir string) ([]string, error) {
	// What is written is no larger than what it is made of.
	if free, ok := block.FreeDisk(dir); ok && free < 2*j.size()+j.size()/10 {
		return nil, fmt.Errorf("fetch %d bytes in %d blocks, %d bytes are free: %w", j.size(), len(j.blocks), free, errDiskSpace)
	}
	dirs := make([]string, len(j.blocks))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchesAtOnce)
	for i := range j.blocks {
		id := j.blocks[i].ID
		dirs[i] = filepath.Join(dir, id.String())
		g.Go(func() error { return c.fetchBlock(ctx, j.home, id, dirs[i]) })
	}
	return dirs, g.Wait()
}

func (c *Compactor) fetchBlock(ctx context.Context, home bucket.Key, id ulid.ULID, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, bucket.ChunksDir), 0o777); err != nil {
		return err
	}
	metaKey := bucket.BlockKey(home, id, bucket.MetaFile)
	err := bucket.FetchFile(ctx, c.bucket, metaKey, filepath.Join(dir, bucket.MetaFile))
	if errors.Is(err, bucket.ErrNotFound) {
		return fmt.Errorf("fetch block %s: %w", id, errLost)
	}
	if err != nil {
		return err
	}
	meta, err := readMeta(dir)
	switch {
	case err != nil:
		return &badBlock{id, fmt.Errorf("parse %s: %w", bucket.MetaFile, err)}
	case meta.ULID != id || meta.Version != 1:
		return &badBlock{id, fmt.Errorf("%s is of block %s in format version %d", bucket.MetaFile, meta.ULID, meta.Version)}
	case meta.Thanos.Downsample.Resolution != 0:
		return &badBlock{id, fmt.Errorf("it is downsampled to %d ms", meta.Thanos.Downsample.Resolution)}
	}
	files, err := c.filesOf(ctx, home, meta)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := c.fetchFile(ctx, home, id, f, dir); err != nil {
			return err
		}
	}
	return nil
}

// filesOf is what has to be fetched of a block besides meta.json. Blocks of
// other systems do not always say.
func (c *Compactor) filesOf(ctx context.Context, home bucket.Key, meta *bucket.Meta) ([]bucket.File, error) {
	files := meta.Thanos.Files
	if len(files) == 0 {
		var err error
		if files, err = bucket.ListBlock(ctx, c.bucket, home, meta.ULID); err != nil {
			return nil, err
		}
	}
	var out []bucket.File
	index := false
	for _, f := range files {
		folder, name := filepath.Split(f.RelPath)
		switch {
		case f.RelPath == bucket.IndexFile:
			index = true
			out = append(out, f)
		case f.RelPath == bucket.TombstonesFile, folder == bucket.ChunksDir+"/" && filepath.IsLocal(name):
			out = append(out, f)
		}
	}
	if !index {
		return nil, &badBlock{meta.ULID, errors.New("it has no index")}
	}
	return out, nil
}

func (c *Compactor) fetchFile(ctx context.Context, home bucket.Key, id ulid.ULID, f bucket.File, dir string) error {
	key, path := bucket.BlockKey(home, id, f.RelPath), filepath.Join(dir, filepath.FromSlash(f.RelPath))
	err := bucket.FetchFile(ctx, c.bucket, key, path)
	if errors.Is(err, bucket.ErrNotFound) {
		_, err := c.bucket.Stat(ctx, bucket.BlockKey(home, id, bucket.MetaFile))
		switch {
		case errors.Is(err, bucket.ErrNotFound):
			return fmt.Errorf("fetch block %s: %w", id, errLost)
		case err != nil:
			return err
		}
		return &badBlock{id, fmt.Errorf("%s is missing", f.RelPath)}
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if f.SizeBytes > 0 && info.Size() != f.SizeBytes {
		return &badBlock{id, fmt.Errorf("%s has %d bytes, %s says %d", f.RelPath, info.Size(), bucket.MetaFile, f.SizeBytes)}
	}
	return nil
}
