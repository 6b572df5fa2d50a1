package storegateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/bucket"
)

// segmentsFile is where a local folder has the sizes of the block's segments
// of chunks.
const segmentsFile = "segments.json"

// download fetches what a query needs of a block besides its chunks, checks
// it, and opens it where it will stay.
func (s *store) download(ctx context.Context, key blockKey) (index *localIndex, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { s.metrics.indexDownloads.WithLabelValues(outcome(err)).Inc() }()

	temp := s.tempDir()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err := s.fetchFiles(ctx, key, temp); err != nil {
		return nil, fmt.Errorf("fetch block %s/%s: %w", key.home, key.id, err)
	}
	index, err = openDir(temp, key, s.logger)
	if err != nil {
		return nil, fmt.Errorf("open block %s/%s: %w", key.home, key.id, err)
	}
	// The files stay mapped while their folder moves.
	if err := s.publish(temp, key); err != nil {
		return nil, errors.Join(err, index.Close())
	}
	return index, nil
}

func (s *store) publish(temp string, key blockKey) error {
	dir := s.localDir(key)
	s.mu.Lock() // takeDir removes empty folders under the same lock
	defer s.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
		return fmt.Errorf("publish local index: %w", err)
	}
	if err := os.Rename(temp, dir); err != nil {
		return fmt.Errorf("publish local index: %w", err)
	}
	return nil
}

// fetchFiles brings a block's small files and its index into dir.
func (s *store) fetchFiles(ctx context.Context, key blockKey, dir string) error {
	// tsdb.OpenBlock wants a folder of chunks; ours has none in it.
	if err := os.MkdirAll(filepath.Join(dir, bucket.ChunksDir), 0o777); err != nil {
		return err
	}
	fetch := func(name string) error {
		return bucket.FetchFile(ctx, s.bucket, bucket.BlockKey(key.home, key.id, name), filepath.Join(dir, name))
	}
	if err := fetch(bucket.MetaFile); err != nil {
		return err
	}
	files, err := s.listFiles(ctx, key, filepath.Join(dir, bucket.MetaFile))
	if err != nil {
		return err
	}
	if _, ok := files[bucket.TombstonesFile]; ok {
		if err := fetch(bucket.TombstonesFile); err != nil {
			return err
		}
	}
	s.makeRoom(files[bucket.IndexFile])
	if err := fetch(bucket.IndexFile); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(dir, bucket.IndexFile))
	if err != nil {
		return err
	}
	if want := files[bucket.IndexFile]; info.Size() != want {
		return fmt.Errorf("index has %d bytes, it should have %d", info.Size(), want)
	}
	return writeSegments(dir, files)
}

// makeRoom removes unused indexes for one of this size.
func (s *store) makeRoom(size int64) {
	s.mu.Lock()
	out := s.shrink(size)
	s.mu.Unlock()
	s.finish(out)
}

func writeSegments(dir string, files map[string]int64) error {
	sizes := map[int]int64{}
	for name, size := range files {
		num, ok := strings.CutPrefix(name, bucket.ChunksDir+"/")
		if n, err := strconv.Atoi(num); ok && err == nil && n > 0 {
			sizes[n] = size
		}
	}
	data, err := json.Marshal(sizes)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, segmentsFile), data, 0o666)
}

// listFiles says which files a block has, and their sizes: as its meta.json
// tells (ours and Thanos' do), else by listing the block's folder.
func (s *store) listFiles(ctx context.Context, key blockKey, metaPath string) (map[string]int64, error) {
	data, err := os.ReadFile(metaPath)
	if err != nil {
		return nil, err
	}
	var meta bucket.Meta
	if err := json.Unmarshal(data, &meta); err != nil {
		return nil, fmt.Errorf("read meta.json: %w", err)
	}
	files, known := map[string]int64{}, false
	for _, f := range meta.Thanos.Files {
		files[f.RelPath] = f.SizeBytes
		known = known || f.RelPath == bucket.IndexFile && f.SizeBytes > 0
	}
	if known {
		return files, nil
	}
	clear(files)
	folder := bucket.BlockKey(key.home, key.id).Folder()
	for obj, err := range s.bucket.List(ctx, folder, true) {
		if err != nil {
			return nil, fmt.Errorf("list block: %w", err)
		}
		files[strings.TrimPrefix(string(obj.Key), string(folder))] = obj.Size
	}
	return files, nil
}

// openDir opens a local folder: its size is that of the index. The index
// reader checks the index's header, table of contents, symbols and table of
// postings here, and all else when it is read.
func openDir(dir string, key blockKey, logger *slog.Logger) (*localIndex, error) {
	data, err := os.ReadFile(filepath.Join(dir, segmentsFile))
	if err != nil {
		return nil, err
	}
	var sizes map[int]int64
	if err := json.Unmarshal(data, &sizes); err != nil {
		return nil, fmt.Errorf("read %s: %w", segmentsFile, err)
	}
	info, err := os.Stat(filepath.Join(dir, bucket.IndexFile))
	if err != nil {
		return nil, err
	}
	index, err := tsdb.OpenBlock(logger, dir, nil, nil)
	if err != nil {
		return nil, err
	}
	if got := index.Meta().ULID; got != key.id {
		return nil, errors.Join(fmt.Errorf("meta.json is that of block %s", got), index.Close())
	}
	return &localIndex{Block: index, segments: segmentsOf(key, sizes), size: info.Size(), file: idOf(info)}, nil
}

// segmentsOf makes the list in which a chunk reference's segment index counts.
// A segment that should be there and is not has no size.
func segmentsOf(key blockKey, sizes map[int]int64) []segment {
	last := 0
	for n := range sizes {
		last = max(last, n)
	}
	out := make([]segment, last)
	for i := range out {
		out[i] = segment{key: bucket.ChunkKey(key.home, key.id, i+1), id: key.id, num: uint32(i + 1), size: sizes[i+1]}
	}
	return out
}
