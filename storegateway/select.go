package storegateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tombstones"
	"github.com/prometheus/prometheus/util/annotations"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// Querier opens the stored blocks of a tenant that may have samples between
// minT and maxT (ms, inclusive), except those in skip, which the caller reads
// elsewhere. The caller closes it. Errors that tell the tenant something are
// wire.UserErrors somewhere in the chain, also those that come out of series
// and iterators. Samples are read under the context of their Select, which
// lives until they have been.
func (g *Gateway) Querier(ctx context.Context, id tenant.ID, minT, maxT int64, skip []ulid.ULID) (storage.Querier, error) {
	opened, err := g.openBlocks(ctx, id, minT, maxT, skip)
	if err != nil {
		return nil, err
	}
	limit := g.newBudget(id)
	var parts []storage.Querier
	for _, home := range opened {
		qs := make([]storage.Querier, 0, len(home.blocks))
		for _, b := range home.blocks {
			qs = append(qs, blockQuerier{g.newReader(b, limit, minT, maxT)})
		}
		q := storage.NewMergeQuerier(qs, nil, storage.ChainedSeriesMerge)
		if home.key == bucket.PoolHome && len(qs) > 0 {
			q = pooledQuerier{bucket.PoolQuerier(q, string(id))}
		}
		parts = append(parts, q)
	}
	return storage.NewMergeQuerier(parts, nil, storage.ChainedSeriesMerge), nil
}

// ChunkQuerier is Querier for whole chunks.
func (g *Gateway) ChunkQuerier(ctx context.Context, id tenant.ID, minT, maxT int64, skip []ulid.ULID) (storage.ChunkQuerier, error) {
	opened, err := g.openBlocks(ctx, id, minT, maxT, skip)
	if err != nil {
		return nil, err
	}
	limit := g.newBudget(id)
	merge := storage.NewCompactingChunkSeriesMerger(storage.ChainedSeriesMerge)
	var parts []storage.ChunkQuerier
	for _, home := range opened {
		qs := make([]storage.ChunkQuerier, 0, len(home.blocks))
		for _, b := range home.blocks {
			qs = append(qs, blockChunkQuerier{g.newReader(b, limit, minT, maxT)})
		}
		q := storage.NewMergeChunkQuerier(qs, nil, merge)
		if home.key == bucket.PoolHome && len(qs) > 0 {
			q = pooledChunkQuerier{bucket.PoolChunkQuerier(q, string(id))}
		}
		parts = append(parts, q)
	}
	return storage.NewMergeChunkQuerier(parts, nil, merge), nil
}

func (g *Gateway) newBudget(id tenant.ID) *budget {
	return &budget{limit: int64(g.limits(id).MaxChunkBytes)}
}

// homeBlocks is the blocks of one home that a query reads.
type homeBlocks struct {
	key    bucket.Key
	blocks []*block
}

// openBlocks opens all blocks that a query needs. A block that is listed but
// not in the bucket was deleted since the list was read, after a compaction
// for example: then what replaces it is in a newer list.
func (g *Gateway) openBlocks(ctx context.Context, id tenant.ID, minT, maxT int64, skip []ulid.ULID) ([]homeBlocks, error) {
	if g.State() != services.Running {
		return nil, errStopped()
	}
	homes := []bucket.Key{bucket.TenantHome(string(id)), bucket.PoolHome}
	opened, err := g.tryOpen(ctx, homes, minT, maxT, skip, time.Time{})
	if errors.Is(err, bucket.ErrNotFound) {
		opened, err = g.tryOpen(ctx, homes, minT, maxT, skip, time.Now())
	}
	if err != nil {
		return nil, g.word(ctx, err, "")
	}
	return opened, nil
}

func (g *Gateway) tryOpen(ctx context.Context, homes []bucket.Key, minT, maxT int64, skip []ulid.ULID, after time.Time) (opened []homeBlocks, err error) {
	opened = make([]homeBlocks, len(homes))
	defer func() {
		if err != nil {
			g.releaseAll(opened)
		}
	}()
	eg, gctx := errgroup.WithContext(ctx)
	for i, home := range homes {
		opened[i].key = home
		eg.Go(func() error { return g.openHome(gctx, &opened[i], minT, maxT, skip, after) })
	}
	return opened, eg.Wait()
}

// openHome opens the blocks of one home. On an error, those that are open are
// in h all the same.
func (g *Gateway) openHome(ctx context.Context, h *homeBlocks, minT, maxT int64, skip []ulid.ULID, after time.Time) error {
	list, err := g.catalogue.index(ctx, h.key, after)
	if err != nil {
		return err
	}
	var entries []*bucket.IndexBlock
	for i := range list.Blocks {
		if e := &list.Blocks[i]; e.Overlaps(minT, maxT) && !slices.Contains(skip, e.ID) {
			entries = append(entries, e)
		}
	}
	// In the order of the list: where blocks disagree on a sample, all queries
	// see the same one.
	blocks := make([]*block, len(entries))
	eg, gctx := errgroup.WithContext(ctx)
	for i, e := range entries {
		eg.Go(func() error {
			b, err := g.store.acquire(gctx, h.key, e)
			if err != nil {
				return fmt.Errorf("open block %s/%s: %w", h.key, e.ID, err)
			}
			blocks[i] = b
			return nil
		})
	}
	err = eg.Wait()
	h.blocks = slices.DeleteFunc(blocks, func(b *block) bool { return b == nil })
	g.metrics.blocksQueried.Add(float64(len(h.blocks)))
	return err
}

func (g *Gateway) releaseAll(opened []homeBlocks) {
	for _, h := range opened {
		for _, b := range h.blocks {
			g.store.release(b)
		}
	}
}

// word turns an error into one that the tenant may see, and logs what is
// behind it; block is "" if err names it.
func (g *Gateway) word(ctx context.Context, err error, block string) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case g.State() != services.Running:
		return errStopped()
	case isUserError(err):
		g.metrics.countFailure(err)
		return err
	}
	g.often.Do(func() { g.logger.Warn("stored block cannot be read, query fails", "block", block, "err", err) })
	err = errBlock()
	g.metrics.countFailure(err)
	return err
}

// blockReader is one block for one querier: each Select reads through a
// tsdb querier of its own, over a plan of its own.
type blockReader struct {
	g          *Gateway
	block      *block
	budget     *budget
	minT, maxT int64

	mu     sync.Mutex
	open   []interface{ Close() error } // tsdb queriers
	closed bool
}

func (g *Gateway) newReader(b *block, limit *budget, minT, maxT int64) *blockReader {
	return &blockReader{g: g, block: b, budget: limit, minT: minT, maxT: maxT}
}

// fail words errors of reading a block. One that says that the local
// index is broken has it fetched again for the next query; one that says that
// the block is gone has the list of blocks read again.
func (r *blockReader) fail(ctx context.Context, fromIndex bool) func(error) error {
	return func(err error) error {
		if ctx.Err() == nil && !isUserError(err) {
			switch {
			case fromIndex:
				r.g.store.distrust(r.block)
			case errors.Is(err, bucket.ErrNotFound):
				r.g.catalogue.expire(r.block.key.home)
			}
		}
		return r.g.word(ctx, err, string(r.block.key.home)+"/"+r.block.key.id.String())
	}
}

// chunksWanted says what a Select reads besides labels.
type chunksWanted int

const (
	noChunks    chunksWanted = iota
	someChunks               // when somebody asks for one
	theseChunks              // surely all
)

// selection makes the tsdb.BlockReader of one Select.
func (r *blockReader) selection(ctx context.Context, wanted chunksWanted, hints *storage.SelectHints) *selection {
	s := &selection{block: r.block}
	s.index = indexReader{ctx: ctx, minT: r.minT, maxT: r.maxT, fail: r.fail(ctx, true)}
	if hints != nil {
		s.index.minT, s.index.maxT = hints.Start, hints.End
	}
	s.index.rest, _ = ctx.Value(restKey{}).([]*labels.Matcher)
	if wanted != noChunks {
		l := &loader{pages: r.g.pages, segments: r.block.segments, budget: r.budget, fail: r.fail(ctx, false)}
		s.index.plan = newPlan(ctx, l, wanted == theseChunks)
	}
	return s
}

// keep has a tsdb querier closed with the reader.
func (r *blockReader) keep(q interface{ Close() error }) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.Join(errClosed, q.Close())
	}
	r.open = append(r.open, q)
	return nil
}

func (r *blockReader) labelQuerier(ctx context.Context) (storage.Querier, error) {
	return tsdb.NewBlockQuerier(r.selection(ctx, noChunks, nil), r.minT, r.maxT)
}

// LabelValues implements storage.LabelQuerier.
func (r *blockReader) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	q, err := r.labelQuerier(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer q.Close()
	return q.LabelValues(ctx, name, hints, slices.Clone(ms)...)
}

// LabelNames implements storage.LabelQuerier.
func (r *blockReader) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	q, err := r.labelQuerier(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer q.Close()
	return q.LabelNames(ctx, hints, slices.Clone(ms)...)
}

// Close closes what Selects opened and gives the block back.
func (r *blockReader) Close() error {
	r.mu.Lock()
	open, closed := r.open, r.closed
	r.open, r.closed = nil, true
	r.mu.Unlock()
	if closed {
		return errClosed
	}
	var errs []error
	for _, q := range open {
		errs = append(errs, q.Close())
	}
	r.g.store.release(r.block)
	return errors.Join(errs...)
}

// blockQuerier is a storage.Querier of one block.
type blockQuerier struct{ *blockReader }

func (q blockQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	wanted := theseChunks
	switch {
	case hints == nil:
		wanted = someChunks
	case hints.Func == "series":
		wanted = noChunks
	}
	inner, err := tsdb.NewBlockQuerier(q.selection(ctx, wanted, hints), q.minT, q.maxT)
	if err == nil {
		err = q.keep(inner)
	}
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	// Sorted, because the lookahead is where tsdb sorts; tsdb reorders matchers.
	return inner.Select(ctx, true, hints, slices.Clone(ms)...)
}

// blockChunkQuerier is a storage.ChunkQuerier of one block.
type blockChunkQuerier struct{ *blockReader }

func (q blockChunkQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	wanted := theseChunks
	if hints == nil || hints.Func == "series" {
		wanted = someChunks
	}
	inner, err := tsdb.NewBlockChunkQuerier(q.selection(ctx, wanted, hints), q.minT, q.maxT)
	if err == nil {
		err = q.keep(inner)
	}
	if err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	return inner.Select(ctx, true, hints, slices.Clone(ms)...)
}

// selection is the tsdb.BlockReader of one Select: the block's index read
// ahead, chunks by plan, all else as the local folder has it.
type selection struct {
	block *block
	index indexReader
}

func (s *selection) Index() (tsdb.IndexReader, error) {
	ir, err := s.block.index.Index()
	s.index.IndexReader = ir
	return &s.index, err
}

func (s *selection) Chunks() (tsdb.ChunkReader, error) {
	if s.index.plan == nil {
		return withoutChunks{}, nil
	}
	return s.index.plan, nil
}

func (s *selection) Tombstones() (tombstones.Reader, error) { return s.block.index.Tombstones() }
func (s *selection) Meta() tsdb.BlockMeta                   { return s.block.index.Meta() }
func (s *selection) Size() int64                            { return s.block.index.Size() }

// withoutChunks is the tsdb.ChunkReader of a Select that is for labels only.
type withoutChunks struct{}

func (withoutChunks) ChunkOrIterable(chunks.Meta) (chunkenc.Chunk, chunkenc.Iterable, error) {
	return nil, nil, errors.New("BUG: chunk read in a select for labels")
}

func (withoutChunks) Close() error { return nil }
