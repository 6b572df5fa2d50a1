package bucket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"
)

// blockID makes IDs that sort as n does.
func blockID(n int) ulid.ULID {
	var entropy [10]byte
	entropy[9] = byte(n)
	return ulid.MustNew(uint64(1_700_000_000_000+n), strings.NewReader(string(entropy[:])))
}

// writeBlock makes a block on disk as Prometheus and the ingester leave it.
func writeBlock(t testing.TB, id ulid.ULID) (dir string, files map[string]string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), id.String())
	files = map[string]string{
		"chunks/000001": "chunks one of " + id.String(),
		"chunks/000002": "chunks two",
		"index":         "the index of " + id.String(),
		"tenants.json":  `["a","b"]`,
	}
	meta := tsdb.BlockMeta{ULID: id, MinTime: 1000, MaxTime: 3000, Version: 1}
	meta.Stats.NumSeries, meta.Stats.NumSamples = 3, 30
	meta.Compaction.Level, meta.Compaction.Sources = 1, []ulid.ULID{id}
	content, err := json.Marshal(meta)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, ChunksDir), 0o777))
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, MetaFile), content, 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(dir, TombstonesFile), make([]byte, 9), 0o666))
	return dir, files
}

// requireBlock checks that a block is complete and listed once.
func requireBlock(t testing.TB, b Bucket, home Key, id ulid.ULID, files map[string]string) {
	t.Helper()
	for name, content := range files {
		require.Equal(t, content, get(t, b, BlockKey(home, id, name)))
	}
	require.Len(t, list(t, b, BlockKey(home, id).Folder(), true), len(files)+1)
	meta, err := ReadMeta(t.Context(), b, home, id)
	require.NoError(t, err)
	require.Equal(t, id, meta.ULID)
	x, _, err := ReadIndex(t.Context(), b, home)
	require.NoError(t, err)
	n := 0
	for _, block := range x.Blocks {
		if block.ID == id {
			n++
		}
	}
	require.Equal(t, 1, n, "entries of %s", id)
}

var errInjected = errors.New("injected")

// shaky fails one write or delete, before or after its effect.
type shaky struct {
	Bucket
	mu     sync.Mutex
	writes int
	failAt int // the number of the write, from 0 on
	after  bool
}

func (s *shaky) write(f func() error) error {
	s.mu.Lock()
	fail := s.writes == s.failAt
	s.writes++
	s.mu.Unlock()
	if fail && !s.after {
		return errInjected
	}
	if err := f(); err != nil {
		return err
	}
	if fail {
		return errInjected
	}
	return nil
}

func (s *shaky) Put(ctx context.Context, key Key, r io.ReadSeeker, size int64, cond Condition) (etag string, err error) {
	err = s.write(func() (err error) {
		etag, err = s.Bucket.Put(ctx, key, r, size, cond)
		return err
	})
	return etag, err
}

func (s *shaky) Delete(ctx context.Context, key Key) error {
	return s.write(func() error { return s.Bucket.Delete(ctx, key) })
}

// lists counts listings, which are what an index is to spare.
type lists struct {
	Bucket
	n int
}

func (l *lists) List(ctx context.Context, prefix Key, recursive bool) iter.Seq2[Object, error] {
	l.n++
	return l.Bucket.List(ctx, prefix, recursive)
}

func shakyName(s *shaky) string {
	if s.after {
		return fmt.Sprintf("after write %d", s.failAt)
	}
	return fmt.Sprintf("before write %d", s.failAt)
}
