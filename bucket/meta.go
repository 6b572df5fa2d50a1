package bucket

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"
)

// Meta is a block's meta.json: what Prometheus writes, and a section of
// Thanos' that Thanos, Cortex and Mimir ask for.
type Meta struct {
	tsdb.BlockMeta

	Thanos ThanosMeta `json:"thanos"`
}

// ThanosMeta says where a block comes from and what belongs to it.
type ThanosMeta struct {
	Version      int               `json:"version,omitempty"`
	Labels       map[string]string `json:"labels"` // of all series of the block, outside of them
	Downsample   Downsample        `json:"downsample"`
	Source       string            `json:"source"`
	Files        []File            `json:"files,omitempty"`
	SegmentFiles []string          `json:"segment_files,omitempty"` // older writers, instead of Files
}

// Downsample is the distance of samples, in ms; 0 is what was written.
type Downsample struct {
	Resolution int64 `json:"resolution"`
}

// File is a file of a block. meta.json is listed without its size.
type File struct {
	RelPath   string `json:"rel_path"` // with "/"
	SizeBytes int64  `json:"size_bytes,omitempty"`
}

func parseMeta(id ulid.ULID, content []byte) (*Meta, error) {
	var m Meta
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	switch {
	case m.Version != 1:
		return nil, fmt.Errorf("format version %d is not known", m.Version)
	case m.ULID != id:
		return nil, fmt.Errorf("it is of another block, %s", m.ULID)
	}
	return &m, nil
}

// ReadMeta reads a block's meta.json. A block that has none does not exist: an
// ErrNotFound.
func ReadMeta(ctx context.Context, b Bucket, home Key, id ulid.ULID) (*Meta, error) {
	content, _, err := ReadAll(ctx, b, BlockKey(home, id, MetaFile))
	if err != nil {
		return nil, err
	}
	m, err := parseMeta(id, content)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", BlockKey(home, id, MetaFile), err)
	}
	return m, nil
}

// localMeta reads the meta.json of a block on disk, whose directory may have
// any name, and completes its Thanos section with the files there are.
func localMeta(dir string, files []File) (*Meta, error) {
	content, err := os.ReadFile(filepath.Join(dir, MetaFile))
	if err != nil {
		return nil, err
	}
	var head struct{ ULID ulid.ULID }
	if err := json.Unmarshal(content, &head); err != nil {
		return nil, fmt.Errorf("parse %s: %w", MetaFile, err)
	}
	m, err := parseMeta(head.ULID, content)
	if err != nil {
		return nil, err
	}
	m.Thanos.Version = 1
	m.Thanos.Source = cmp.Or(m.Thanos.Source, writer)
	if m.Thanos.Labels == nil {
		m.Thanos.Labels = map[string]string{}
	}
	m.Thanos.SegmentFiles = nil
	m.Thanos.Files = append(slices.Clone(files), File{RelPath: MetaFile})
	slices.SortFunc(m.Thanos.Files, func(a, b File) int { return cmp.Compare(a.RelPath, b.RelPath) })
	return m, nil
}

// localFiles lists what belongs to a block on disk, in the order of upload:
// chunks, index, then the rest by name. meta.json is not among them.
func localFiles(dir string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if rel != MetaFile && !emptyTombstones(rel, info.Size()) && info.Mode().IsRegular() {
			files = append(files, File{RelPath: rel, SizeBytes: info.Size()})
		}
		return nil
	})
	slices.SortStableFunc(files, func(a, b File) int { return cmp.Compare(uploadRank(a.RelPath), uploadRank(b.RelPath)) })
	if err == nil && !slices.ContainsFunc(files, func(f File) bool { return f.RelPath == IndexFile }) {
		err = errors.New("the block has no index")
	}
	return files, err
}

func uploadRank(rel string) int {
	switch {
	case filepath.Dir(rel) == ChunksDir:
		return 0
	case rel == IndexFile:
		return 1
	default:
		return 2
	}
}

// emptyTombstones says that a file says nothing. Prometheus puts one of a
// header and a checksum into each block; for thousands of small blocks the
// requests would cost more than the rest.
func emptyTombstones(rel string, size int64) bool {
	return rel == TombstonesFile && size <= 9
}

// ReadAll reads a small object.
func ReadAll(ctx context.Context, b Bucket, key Key) ([]byte, Object, error) {
	rc, obj, err := b.Get(ctx, key)
	if err != nil {
		return nil, Object{}, err
	}
	defer rc.Close()
	content, err := io.ReadAll(rc)
	if err != nil {
		return nil, Object{}, fmt.Errorf("read %s: %w", key, err)
	}
	return content, obj, nil
}
