package storegateway

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// residentBatches is how many batches of chunks a plan has in memory: the one
// that is read, the one before it, whose last series may still be in use, and
// the one that comes next.
const residentBatches = 3

var errClosed = errors.New("querier is closed")

// plan is what one Select on one block reads of the block's chunks, in batches
// of some megabytes, and the tsdb.ChunkReader that serves them.
//
// The lookahead adds a batch whenever it has read the index entries of some
// more series, and puts the place in the plan (which batch, which chunk of it)
// where the chunk's reference was. When a chunk of a batch is asked for, the
// whole batch is loaded, and the next one meanwhile. So it does not matter
// whether the caller reads each series' samples before he goes on to the next,
// as remote read does, or first gathers all series, as the engine does.
// Batches that are long past are dropped, and loaded again should somebody go
// back, then from the cache.
type plan struct {
	ctx    context.Context // of the Select: a series' iterator has none of its own
	loader *loader
	eager  bool // all chunks will surely be read: count them early, load the first at once

	mu       sync.Mutex
	batches  []*batch
	resident []*batch // with a load, the least recently used first
	newest   int      // the last batch that a chunk was read from; -1: none yet
	closed   bool
	loading  context.Context // of loads that take time; nil: there has been none
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// batch is the chunks of some series, in the order of the index.
type batch struct {
	chunks  []plannedChunk
	load    *load // nil: not in memory. Guarded by plan.mu, like counted.
	counted bool  // against the budget
}

// plannedChunk is a chunk's place and size, both as far as the index tells.
type plannedChunk struct {
	ref  chunks.BlockChunkRef
	size uint32 // bytes with length, encoding and checksum; 0: not known
}

// load is one loading of a batch.
type load struct {
	done chan struct{}
	data [][]byte // of each chunk: encoding, samples
	err  error
}

func newPlan(ctx context.Context, l *loader, eager bool) *plan {
	return &plan{ctx: ctx, loader: l, eager: eager, newest: -1}
}

// placeIn makes the reference by which a chunk of the plan is found again.
func placeIn(batch, i int) chunks.ChunkRef { return chunks.ChunkRef(uint64(batch)<<32 | uint64(i)) }

// add plans a batch, and returns its number.
func (p *plan) add(cs []plannedChunk) (int, error) {
	if p.eager {
		if err := p.loader.budget.add(knownSize(cs)); err != nil {
			return 0, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, errClosed
	}
	p.batches = append(p.batches, &batch{chunks: cs})
	n := len(p.batches) - 1
	if n == p.newest+1 && (p.eager || p.newest >= 0) {
		p.want(n)
	}
	return n, nil
}

// ChunkOrIterable returns a chunk of the plan, and waits for it if it must.
func (p *plan) ChunkOrIterable(meta chunks.Meta) (chunkenc.Chunk, chunkenc.Iterable, error) {
	n, i := int(meta.Ref>>32), int(uint32(meta.Ref))
	l, err := p.visit(n)
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-l.done:
	case <-p.ctx.Done():
		return nil, nil, p.ctx.Err()
	}
	if l.err != nil {
		return nil, nil, l.err
	}
	data := l.data[i]
	c, err := chunkenc.FromData(chunkenc.Encoding(data[0]), data[chunks.ChunkEncodingSize:])
	return c, nil, err
}

// visit returns the load of a batch, and has the next one loaded too.
func (p *plan) visit(n int) (*load, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	p.newest = max(p.newest, n)
	l := p.want(n)
	if next := n + 1; next < len(p.batches) && p.batches[next].load == nil {
		p.want(next)
	}
	return l, nil
}

// want returns the load of a batch, and begins it if need be. The caller holds mu.
func (p *plan) want(n int) *load {
	b := p.batches[n]
	if b.load != nil {
		if i := slices.Index(p.resident, b); i >= 0 && i < len(p.resident)-1 {
			p.resident = append(slices.Delete(p.resident, i, i+1), b)
		}
		return b.load
	}
	if len(p.resident) == residentBatches {
		p.resident[0].load = nil // those who wait for it still get it
		p.resident = slices.Delete(p.resident, 0, 1)
	}
	p.resident = append(p.resident, b)
	l, count := &load{done: already}, !b.counted
	b.load, b.counted = l, true
	if l.data = p.loader.lend(b.chunks); l.data != nil {
		p.loaded(b, l, count)
		return l
	}
	if p.loading == nil {
		p.loading, p.cancel = context.WithCancel(p.ctx)
	}
	ctx := p.loading
	l.done = make(chan struct{})
	p.running.Go(func() {
		defer close(l.done)
		l.data, l.err = p.loader.load(ctx, b.chunks)
		p.loaded(b, l, count)
	})
	return l
}

// already is the done of a load that took no time.
var already = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// loaded counts what was loaded against the budget, as far as it was not.
func (p *plan) loaded(b *batch, l *load, count bool) {
	if l.err == nil && count {
		l.err = p.loader.budget.add(p.uncounted(b.chunks, l.data))
	}
}

// knownSize is the bytes of those chunks whose size the index tells.
func knownSize(cs []plannedChunk) (size int64) {
	for _, c := range cs {
		size += int64(c.size)
	}
	return size
}

// uncounted is the bytes of a batch's chunks that were not counted when they
// were planned.
func (p *plan) uncounted(cs []plannedChunk, data [][]byte) (size int64) {
	for i, c := range cs {
		if !p.eager || c.size == 0 {
			size += writtenSize(data[i])
		}
	}
	return size
}

// Close ends all loading. Chunks that were handed out stay valid.
func (p *plan) Close() error {
	p.mu.Lock()
	p.closed = true
	if p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	p.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batches, p.resident = nil, nil
	return nil
}
