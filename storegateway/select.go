package storegateway

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tombstones"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Querier opens blocks of a tenant, for samples between minT and maxT (ms,
// inclusive). The caller closes it. Errors that tell the tenant something are
// wire.UserErrors somewhere in the chain, also those that come out of series
// and iterators; one of the kind NotFound, from Querier itself, says that the
// bucket does not have one of the blocks. Samples are read under the context
// of their Select, which lives until they have been.
func (g *Gateway) Querier(ctx context.Context, id tenant.ID, minT, maxT int64, blocks wire.Blocks) (storage.Querier, error) {
	own, pooled, err := g.openBlocks(ctx, id, minT, maxT, blocks)
	if err != nil {
		return nil, err
	}
	merged := func(readers []*blockReader) storage.Querier {
		qs := make([]storage.Querier, len(readers))
		for i, r := range readers {
			qs[i] = blockQuerier{r}
		}
		return storage.NewMergeQuerier(qs, nil, storage.ChainedSeriesMerge)
	}
	parts := []storage.Querier{merged(own)}
	if len(pooled) > 0 {
		parts = append(parts, pooledQuerier{bucket.PoolQuerier(merged(pooled), string(id))})
	}
	return storage.NewMergeQuerier(parts, nil, storage.ChainedSeriesMerge), nil
}

// ChunkQuerier is Querier for whole chunks.
func (g *Gateway) ChunkQuerier(ctx context.Context, id tenant.ID, minT, maxT int64, blocks wire.Blocks) (storage.ChunkQuerier, error) {
	own, pooled, err := g.openBlocks(ctx, id, minT, maxT, blocks)
	if err != nil {
		return nil, err
	}
	return mergeChunks(id, own, pooled, storage.NewCompactingChunkSeriesMerger(storage.ChainedSeriesMerge)), nil
}

func mergeChunks(id tenant.ID, own, pooled []*blockReader, merge storage.VerticalChunkSeriesMergeFunc) storage.ChunkQuerier {
	merged := func(readers []*blockReader) storage.ChunkQuerier {
		qs := make([]storage.ChunkQuerier, len(readers))
		for i, r := range readers {
			qs[i] = blockChunkQuerier{r}
		}
		return storage.NewMergeChunkQuerier(qs, nil, merge)
	}
	parts := []storage.ChunkQuerier{merged(own)}
	if len(pooled) > 0 {
		parts = append(parts, pooledChunkQuerier{bucket.PoolChunkQuerier(merged(pooled), string(id))})
	}
	return storage.NewMergeChunkQuerier(parts, nil, merge)
}

func (g *Gateway) newBudget(id tenant.ID) *budget {
	return &budget{limit: int64(g.limits(id).MaxChunkBytes)}
}

// openBlocks opens all blocks that a query needs, in the order in which they
// are named: where blocks disagree on a sample, all queries see the same one.
// Pooled blocks that have nothing of the tenant are left out.
func (g *Gateway) openBlocks(ctx context.Context, id tenant.ID, minT, maxT int64, blocks wire.Blocks) (own, pooled []*blockReader, err error) {
	if g.State() != services.Running {
		return nil, nil, errStopped()
	}
	keys := make([]blockKey, 0, blocks.Len())
	for _, b := range blocks.Own {
		keys = append(keys, blockKey{bucket.TenantHome(string(id)), b})
	}
	for _, b := range blocks.Pooled {
		keys = append(keys, blockKey{bucket.PoolHome, b})
	}
	opened, err := g.store.acquire(ctx, keys)
	if err != nil {
		if errors.Is(err, bucket.ErrNotFound) && ctx.Err() == nil {
			err = errGone()
		}
		return nil, nil, g.word(ctx, err, "")
	}
	g.store.letGo()
	g.metrics.blocksQueried.Add(float64(len(opened)))
	limit, window := g.newBudget(id), shareOf(len(opened))
	for i, b := range opened {
		r := &blockReader{g: g, block: b, budget: limit, window: window, minT: minT, maxT: maxT}
		switch {
		case i < len(blocks.Own):
			own = append(own, r)
		case b.lacks(ctx, id):
			g.store.release(b)
		default:
			pooled = append(pooled, r)
		}
	}
	return own, pooled, nil
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
	window     share
	minT, maxT int64

	mu     sync.Mutex
	open   []interface{ Close() error } // tsdb queriers
	closed bool
}

// fail words errors of reading a block. One that says that the local index is
// broken has it fetched again for the next query.
func (r *blockReader) fail(ctx context.Context, fromIndex bool) func(error) error {
	return func(err error) error {
		if fromIndex && ctx.Err() == nil && !isUserError(err) {
			r.g.store.distrust(r.block)
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

// selection makes the tsdb.BlockReader of one Select. later are matchers that
// are tested on each series.
func (r *blockReader) selection(ctx context.Context, wanted chunksWanted, hints *storage.SelectHints, later ...*labels.Matcher) *selection {
	s := &selection{block: r.block}
	s.index = indexReader{ctx: ctx, minT: r.minT, maxT: r.maxT, window: r.window, fail: r.fail(ctx, true), letGo: r.g.store.letGo}
	if hints != nil {
		s.index.minT, s.index.maxT = hints.Start, hints.End
	}
	rest, _ := ctx.Value(restKey{}).([]*labels.Matcher)
	s.index.rest = slices.Concat(rest, later)
	if wanted != noChunks {
		l := &loader{pages: r.g.pages, segments: r.block.index.segments, budget: r.budget, fail: r.fail(ctx, false)}
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
	values, ok, err := r.valuesBySeries(ctx, name, ms)
	if err != nil {
		return nil, nil, r.fail(ctx, true)(err)
	}
	if ok {
		if hints != nil && hints.Limit > 0 {
			values = values[:min(len(values), hints.Limit)]
		}
		return values, nil, nil
	}
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
	now, later, err := q.block.divide(ctx, ms)
	if err != nil {
		return storage.ErrSeriesSet(q.fail(ctx, true)(err))
	}
	inner, err := tsdb.NewBlockQuerier(q.selection(ctx, wanted, hints, later...), q.minT, q.maxT)
	if err == nil {
		err = q.keep(inner)
	}
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	// Sorted, because the lookahead is where tsdb sorts; tsdb reorders matchers.
	return inner.Select(ctx, true, unlimited(hints, later), slices.Clone(now)...)
}

// blockChunkQuerier is a storage.ChunkQuerier of one block.
type blockChunkQuerier struct{ *blockReader }

func (q blockChunkQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	wanted := theseChunks
	if hints == nil || hints.Func == "series" {
		wanted = someChunks
	}
	now, later, err := q.block.divide(ctx, ms)
	if err != nil {
		return storage.ErrChunkSeriesSet(q.fail(ctx, true)(err))
	}
	inner, err := tsdb.NewBlockChunkQuerier(q.selection(ctx, wanted, hints, later...), q.minT, q.maxT)
	if err == nil {
		err = q.keep(inner)
	}
	if err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	return inner.Select(ctx, true, unlimited(hints, later), slices.Clone(now)...)
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
