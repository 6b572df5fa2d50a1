package storegateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/bucket"
)

const (
	openTimeout   = 10 * time.Minute   // of the download of one index
	openAtOnce    = 8                  // downloads at once
	refusalPause  = 10 * time.Second   // before a block that could not be opened is tried again
	blockIdleOpen = time.Hour          // an index that nobody reads is unmapped after that
	blockIdleDisk = 7 * 24 * time.Hour // and then removed: its block is gone, or another gateway's
)

// blockKey names a block wherever it is.
type blockKey struct {
	home bucket.Key
	id   ulid.ULID
}

func (k blockKey) path() string {
	return filepath.Join(filepath.FromSlash(string(k.home)), k.id.String())
}

// store keeps the indexes of blocks on local disk and mapped into memory:
//
//	<dir>/blocks/<home>/<ULID>/   index, meta.json, segments.json, chunks/ (always empty)
//	<dir>/tmp/                    what is coming or going
//
// A folder below blocks is complete: it was renamed to there. Indexes that no
// query holds are removed, the least recently used first, when all together
// are larger than the budget; those that queries hold may exceed it.
type store struct {
	bucket  bucket.Bucket
	dir     string
	budget  int64
	logger  *slog.Logger
	metrics *metrics
	base    context.Context // downloads outlive the queries that asked for them
	slots   chan struct{}   // held while downloading
	mapped  *residence
	tempNo  atomic.Int64
	running sync.WaitGroup

	mu      sync.Mutex
	blocks  map[blockKey]*block
	disk    int64 // sum of block.size
	stopped bool
	refused map[blockKey]refusal
}

// refusal remembers that a block could not be opened, so that queries do not
// fetch a broken one again and again.
type refusal struct {
	err error
	at  time.Time
}

// block is one block that is on local disk, or on its way there.
type block struct {
	key blockKey

	// Guarded by store.mu.
	refs    int // queries that hold it
	usedAt  time.Time
	size    int64 // on local disk; 0: not there
	opening *opening
	outcast bool // taken out of store.blocks while queries hold it

	// Set before opening.done is closed; not nil from then on until closed
	// with no references left.
	index *localIndex

	values sync.Map // name of a label -> how many values it has, once somebody had to know
}

// localIndex is what is on local disk of a block: all but the chunks.
type localIndex struct {
	*tsdb.Block
	segments []segment
	size     int64 // bytes
	file     fileID
}

// opening is one attempt to open a block.
type opening struct {
	done chan struct{}
	err  error
}

// segment is a file of chunks in the bucket.
type segment struct {
	key  bucket.Key
	id   ulid.ULID
	num  uint32 // 1 for the first
	size int64  // bytes
}

func newStore(base context.Context, b bucket.Bucket, dir string, budget int64, logger *slog.Logger, m *metrics) *store {
	return &store{
		bucket:  b,
		dir:     dir,
		budget:  budget,
		logger:  logger,
		metrics: m,
		base:    base,
		slots:   make(chan struct{}, openAtOnce),
		mapped:  newResidence(),
		blocks:  map[blockKey]*block{},
		refused: map[blockKey]refusal{},
	}
}

// acquire opens blocks, or joins those who have them open. The caller releases
// them. An error that is a bucket.ErrNotFound says that the bucket does not have
// one of them.
func (s *store) acquire(ctx context.Context, keys []blockKey) (_ []*block, err error) {
	blocks, openings := make([]*block, 0, len(keys)), make([]*opening, len(keys))
	defer func() {
		if err != nil {
			for _, b := range blocks {
				s.release(b)
			}
		}
	}()
	for i, key := range keys {
		b, op, err := s.join(key)
		if err != nil {
			return nil, fmt.Errorf("open block %s/%s: %w", key.home, key.id, err)
		}
		blocks, openings[i] = append(blocks, b), op
	}
	for i, op := range openings {
		if op == nil {
			continue
		}
		select {
		case <-op.done:
			err = op.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("open block %s/%s: %w", keys[i].home, keys[i].id, err)
		}
	}
	return blocks, nil
}

// join refers to a block, and says which opening to wait for, if any.
func (s *store) join(key blockKey) (*block, *opening, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, nil, errStopped()
	}
	b := s.blocks[key]
	if b == nil {
		if r, ok := s.refused[key]; ok && time.Since(r.at) < refusalPause {
			return nil, nil, r.err
		}
		b = &block{key: key}
		s.blocks[key] = b
	}
	b.refs++
	b.usedAt = time.Now()
	if b.index == nil && b.opening == nil {
		b.opening = &opening{done: make(chan struct{})}
		s.running.Add(1)
		go s.open(b, b.opening)
	}
	return b, b.opening, nil
}

// release gives a block back.
func (s *store) release(b *block) {
	s.mu.Lock()
	b.refs--
	b.usedAt = time.Now()
	var out []*removal
	if b.refs == 0 && b.opening == nil {
		switch {
		case b.outcast, s.stopped:
			out = append(out, s.unmap(b))
		case b.index == nil && b.size == 0:
			delete(s.blocks, b.key)
		}
		out = append(out, s.shrink(0)...)
	}
	s.mu.Unlock()
	s.finish(out)
}

// open carries out an opening.
func (s *store) open(b *block, op *opening) {
	defer s.running.Done()
	ctx, cancel := context.WithTimeout(s.base, openTimeout)
	defer cancel()
	index := s.openLocal(b)
	var err error
	if index == nil {
		index, err = s.download(ctx, b.key)
	}

	s.mu.Lock()
	b.opening = nil
	switch {
	case err == nil:
		b.index = index
		s.disk += index.size - b.size
		b.size = index.size
		delete(s.refused, b.key)
		s.metrics.blocksOpen.Inc()
		s.metrics.indexDisk.Set(float64(s.disk))
	case !errors.Is(err, bucket.ErrNotFound) && s.base.Err() == nil:
		s.refused[b.key] = refusal{err, time.Now()}
	}
	var out []*removal
	if b.refs == 0 { // all who waited have given up
		if err != nil {
			delete(s.blocks, b.key)
		}
		out = s.shrink(0)
	}
	s.mu.Unlock()
	op.err = err
	close(op.done)
	s.finish(out)
	s.letGo()
}

// openLocal opens what is on local disk. A folder that is broken is thrown
// away; then, as where there is none, the index is nil.
func (s *store) openLocal(b *block) *localIndex {
	s.mu.Lock()
	size := b.size
	s.mu.Unlock()
	if size == 0 {
		return nil
	}
	index, err := openDir(s.localDir(b.key), b.key, s.logger)
	if err == nil {
		return index
	}
	s.logger.Warn("local index is broken, will fetch it again", "home", b.key.home, "block", b.key.id, "err", err)
	s.mu.Lock()
	r := s.takeDir(b)
	s.mu.Unlock()
	s.finish([]*removal{r})
	return nil
}

// distrust throws a block's local index away because reading it failed: the
// next query fetches it anew, those that hold it keep it until they end.
func (s *store) distrust(b *block) {
	s.mu.Lock()
	r := &removal{}
	if s.blocks[b.key] == b {
		delete(s.blocks, b.key)
		r = s.takeDir(b)
		b.outcast = true
	}
	s.mu.Unlock()
	s.finish([]*removal{r})
}

// removal is a block that was taken out of the store and is to be closed and
// deleted without holding the lock.
type removal struct {
	index *localIndex
	dir   string // below tmp; "" if nothing is on disk
}

// shrink takes out unreferenced blocks, the least recently used first, until
// more bytes fit into the budget. The caller holds mu.
func (s *store) shrink(more int64) []*removal {
	var out []*removal
	for s.disk+more > s.budget {
		var oldest *block
		for _, b := range s.blocks {
			if b.refs == 0 && b.opening == nil && b.size > 0 && (oldest == nil || b.usedAt.Before(oldest.usedAt)) {
				oldest = b
			}
		}
		if oldest == nil {
			break
		}
		out = append(out, s.take(oldest))
	}
	return out
}

// take takes a block that nobody refers to out of the store. The caller holds mu.
func (s *store) take(b *block) *removal {
	delete(s.blocks, b.key)
	r := s.takeDir(b)
	r.index = s.unmap(b).index
	return r
}

// unmap takes the open index of a block that nobody refers to. The caller
// holds mu.
func (s *store) unmap(b *block) *removal {
	r := &removal{index: b.index}
	if b.index != nil {
		s.metrics.blocksOpen.Dec()
	}
	b.index = nil
	return r
}

// takeDir moves a block's folder away. The caller holds mu.
func (s *store) takeDir(b *block) *removal {
	r := &removal{}
	if b.size == 0 {
		return r
	}
	s.disk -= b.size
	b.size = 0
	s.metrics.indexDisk.Set(float64(s.disk))
	r.dir = s.tempDir()
	dir := s.localDir(b.key)
	if err := os.Rename(dir, r.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.logger.Warn("local index cannot be removed", "dir", dir, "err", err)
	}
	// The folders of homes above it go when they are empty.
	for up := filepath.Dir(dir); up != s.blocksDir() && os.Remove(up) == nil; {
		up = filepath.Dir(up)
	}
	return r
}

// finish closes and deletes what was taken out.
func (s *store) finish(out []*removal) {
	for _, r := range out {
		if r.index != nil {
			if err := r.index.Close(); err != nil {
				s.logger.Warn("index cannot be closed", "block", r.index.Meta().ULID, "err", err)
			}
		}
		if r.dir != "" {
			if err := os.RemoveAll(r.dir); err != nil {
				s.logger.Warn("local index cannot be removed", "dir", r.dir, "err", err)
			}
		}
	}
}

// letGo has the kernel take back what is resident of the indexes when that has
// become much. Queries that read them go on, and have what they touch again.
func (s *store) letGo() {
	if !s.mapped.over() {
		return
	}
	files := map[fileID]bool{}
	s.mu.Lock() // no index is unmapped meanwhile
	for _, b := range s.blocks {
		if b.index != nil {
			files[b.index.file] = true
		}
	}
	letGoOf(files)
	s.mu.Unlock()
	s.mapped.reset()
}

// tidy unmaps indexes that nobody has read for a while, and removes those that
// nobody has read for long.
func (s *store) tidy(now time.Time) {
	s.mu.Lock()
	maps.DeleteFunc(s.refused, func(_ blockKey, r refusal) bool { return now.Sub(r.at) > refusalPause })
	var idle []*block
	for _, b := range s.blocks {
		if b.refs == 0 && b.opening == nil {
			idle = append(idle, b)
		}
	}
	s.mu.Unlock()
	for _, b := range idle {
		r := &removal{}
		s.mu.Lock()
		switch {
		case b.refs > 0 || b.opening != nil || s.blocks[b.key] != b:
		case now.Sub(b.usedAt) > blockIdleDisk:
			r = s.take(b)
		case b.index != nil && now.Sub(b.usedAt) > blockIdleOpen:
			r = s.unmap(b)
		}
		s.mu.Unlock()
		s.finish([]*removal{r})
	}
}

// makeDirs makes the folders, and removes what a crash left behind.
func (s *store) makeDirs() error {
	temp := filepath.Join(s.dir, "tmp")
	if err := os.RemoveAll(temp); err != nil {
		return fmt.Errorf("remove leftovers: %w", err)
	}
	for _, dir := range []string{temp, s.blocksDir()} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return fmt.Errorf("make folder of indexes: %w", err)
		}
	}
	return nil
}

// adoptAll takes up the indexes of an earlier run, as many as the budget allows.
func (s *store) adoptAll() error {
	err := filepath.WalkDir(s.blocksDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != segmentsFile {
			return err
		}
		return s.adopt(filepath.Dir(path))
	})
	if err != nil {
		return fmt.Errorf("look for indexes of an earlier run: %w", err)
	}
	s.mu.Lock()
	out := s.shrink(0)
	s.metrics.indexDisk.Set(float64(s.disk))
	s.mu.Unlock()
	s.finish(out)
	return nil
}

// adopt takes up one folder of an earlier run.
func (s *store) adopt(dir string) error {
	rel, err := filepath.Rel(s.blocksDir(), dir)
	if err != nil {
		return err
	}
	id, ok := bucket.ParseBlockID(filepath.Base(rel))
	info, err := os.Stat(filepath.Join(dir, bucket.IndexFile))
	if err != nil || !ok {
		return os.RemoveAll(dir)
	}
	key := blockKey{bucket.Key(filepath.ToSlash(filepath.Dir(rel))), id}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocks[key] = &block{key: key, size: info.Size(), usedAt: info.ModTime()}
	s.disk += info.Size()
	return nil
}

// stop waits for downloads, which end with the base context, and unmaps all
// indexes. Queriers still open keep theirs until they are closed.
func (s *store) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.running.Wait()
	s.mu.Lock()
	var out []*removal
	for _, b := range s.blocks {
		if b.refs == 0 && b.index != nil {
			out = append(out, s.unmap(b))
		}
	}
	s.mu.Unlock()
	s.finish(out)
	s.mapped.close()
}

func (s *store) blocksDir() string          { return filepath.Join(s.dir, "blocks") }
func (s *store) localDir(k blockKey) string { return filepath.Join(s.blocksDir(), k.path()) }
func (s *store) tempDir() string {
	return filepath.Join(s.dir, "tmp", strconv.FormatInt(s.tempNo.Add(1), 10))
}
