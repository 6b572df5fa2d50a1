package storegateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/semaphore"

	"github.com/hearth-metrics/hearth/bucket"
)

// Segments of chunks are read and cached in pages. A query that touches one
// chunk of some hundred bytes costs one page; reading a whole segment costs a
// range read for each run of pages.
const (
	pageSize    = 64 << 10
	maxRunPages = 32 // of one range read: 2 MiB
	maxGapPages = 8  // pages that nobody asked for, read to save a request: 512 KiB

	fetchesAtOnce = 32  // range reads at once, of all queries
	fetchedAtOnce = 512 // pages that they bring: 32 MiB
	copiedAtOnce  = 512 // pages that chunks are being copied from, of all queries: 32 MiB
	fetchTimeout  = time.Minute
	fetchTries    = 2
)

// pageKey names a page. Block IDs are unique over all homes.
type pageKey struct {
	block   ulid.ULID
	segment uint32
	page    uint32
}

// page is a page in memory. It is shared and must not be changed. A query may
// read gigabytes of them in a second, so a page that nobody has any more is used
// again. One that somebody forgets to release is left to the collector, and so is
// one of which a part is lent to whoever keeps it for how long.
type page struct {
	data []byte
	refs atomic.Int32 // readers, the cache, the fetch that brought it
	lent atomic.Bool
}

var pagePool = sync.Pool{New: func() any { return &page{data: make([]byte, 0, pageSize)} }}

// newPage is a page of some bytes that one has.
func newPage(size int32) *page {
	pg := pagePool.Get().(*page) //nolint:forcetypeassert // there are no others
	pg.data = pg.data[:size]
	pg.refs.Store(1)
	return pg
}

func (pg *page) release() {
	if pg.refs.Add(-1) == 0 && !pg.lent.Load() {
		pagePool.Put(pg)
	}
}

// lend has the page never used again. The caller has not released it.
func (pg *page) lend() {
	if !pg.lent.Load() {
		pg.lent.Store(true)
	}
}

// pages reads pages of segments: from memory, from local disk, or else from
// the bucket, in which case nobody else reads the same page meanwhile.
type pages struct {
	bucket  bucket.Bucket
	logger  *slog.Logger
	metrics *metrics
	base    context.Context     // fetches outlive the query that was the first to ask
	slots   *semaphore.Weighted // of fetchedAtOnce, held while fetching
	copying *semaphore.Weighted // of copiedAtOnce, held by loaders
	running sync.WaitGroup

	mu      sync.Mutex
	memory  *pageLRU
	disk    *pageFile // nil: none
	fetches map[pageKey]*fetch
	stopped bool
}

// fetch is a range read of a run of pages.
type fetch struct {
	seg    *segment
	first  uint32
	count  int
	wanted map[uint32]int32 // the pages somebody waits for, and how many do; the others fill gaps. Guarded by pages.mu.
	done   chan struct{}
	pages  []*page // set before done is closed, like err
	err    error
}

func newPages(base context.Context, b bucket.Bucket, memory int64, disk *pageFile, logger *slog.Logger, m *metrics) *pages {
	return &pages{
		bucket:  b,
		logger:  logger,
		metrics: m,
		base:    base,
		slots:   semaphore.NewWeighted(fetchedAtOnce),
		copying: semaphore.NewWeighted(copiedAtOnce),
		memory:  newPageLRU(memory),
		disk:    disk,
		fetches: map[pageKey]*fetch{},
	}
}

// get returns pages of a segment, whose numbers are in rising order. The caller
// releases them.
func (p *pages) get(ctx context.Context, seg *segment, want []uint32) ([]*page, error) {
	got := make([]*page, len(want))
	onDisk, waits := p.look(seg, want, got)
	again := p.readDisk(seg, want, got, onDisk)
	for _, w := range waits {
		select {
		case <-w.fetch.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := w.fetch.err; err != nil {
			return nil, err
		}
		got[w.i] = w.fetch.pages[want[w.i]-w.fetch.first]
	}
	if len(again) == 0 {
		return got, nil
	}
	// Pages that left the disk cache between the look and the read.
	missed := make([]uint32, len(again))
	for j, i := range again {
		missed[j] = want[i]
	}
	more, err := p.get(ctx, seg, missed)
	if err != nil {
		return nil, err
	}
	for j, i := range again {
		got[i] = more[j]
	}
	return got, nil
}

// pageWait is a page to take from a fetch when that is done.
type pageWait struct {
	i     int
	fetch *fetch
}

// pageOnDisk is a page to read from a slot of the disk cache.
type pageOnDisk struct {
	i    int
	slot slotRef
}

// look fills in what is in memory, and says where the rest is. Fetches of what
// is nowhere are begun.
func (p *pages) look(seg *segment, want []uint32, got []*page) (onDisk []pageOnDisk, waits []pageWait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []int
	var hit int
	for i, n := range want {
		key := pageKey{seg.id, seg.num, n}
		if pg := p.memory.get(key); pg != nil {
			got[i] = pg
			hit += len(pg.data)
			continue
		}
		if f := p.fetches[key]; f != nil {
			f.wanted[n]++
			waits = append(waits, pageWait{i, f})
			continue
		}
		if slot, ok := p.disk.look(key); ok {
			onDisk = append(onDisk, pageOnDisk{i, slot})
			continue
		}
		missing = append(missing, i)
	}
	p.metrics.fromMemory.Add(float64(hit))
	for len(missing) > 0 {
		n := runLength(want, missing)
		f := p.begin(seg, want, missing[:n])
		for _, i := range missing[:n] {
			waits = append(waits, pageWait{i, f})
		}
		missing = missing[n:]
	}
	return onDisk, waits
}

// inMemory returns pages that are all in memory, which the caller releases, or nil.
func (p *pages) inMemory(seg *segment, want []uint32) []*page {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := make([]*page, len(want))
	size := 0
	for i, n := range want {
		if got[i] = p.memory.get(pageKey{seg.id, seg.num, n}); got[i] == nil {
			for _, pg := range got[:i] {
				pg.release()
			}
			return nil
		}
		size += len(got[i].data)
	}
	p.metrics.fromMemory.Add(float64(size))
	return got
}

// runLength says how many of the missing pages one range read brings.
func runLength(want []uint32, missing []int) int {
	first := want[missing[0]]
	for n := 1; n < len(missing); n++ {
		page := want[missing[n]]
		if page-want[missing[n-1]] > maxGapPages+1 || page-first >= maxRunPages {
			return n
		}
	}
	return len(missing)
}

// begin starts the fetch of a run. The caller holds mu.
func (p *pages) begin(seg *segment, want []uint32, run []int) *fetch {
	first, last := want[run[0]], want[run[len(run)-1]]
	f := &fetch{seg: seg, first: first, count: int(last-first) + 1, wanted: map[uint32]int32{}, done: make(chan struct{})}
	if p.stopped {
		f.err = errStopped()
		close(f.done)
		return f
	}
	for _, i := range run {
		f.wanted[want[i]] = 1
		p.fetches[pageKey{seg.id, seg.num, want[i]}] = f
	}
	p.running.Add(1)
	go p.fetch(f)
	return f
}

// fetch carries out a fetch, and keeps what it brought.
func (p *pages) fetch(f *fetch) {
	defer p.running.Done()
	weight := int64(max(f.count, fetchedAtOnce/fetchesAtOnce))
	if f.err = p.slots.Acquire(p.base, weight); f.err == nil {
		defer p.slots.Release(weight)
		f.pages, f.err = p.readRun(f)
		p.metrics.rangeReads.WithLabelValues(outcome(f.err)).Inc()
	}

	p.mu.Lock()
	for n, waiting := range f.wanted {
		key := pageKey{f.seg.id, f.seg.num, n}
		delete(p.fetches, key)
		if f.err == nil {
			f.pages[n-f.first].refs.Add(waiting)
			p.memory.add(key, f.pages[n-f.first])
		}
	}
	p.metrics.memoryBytes.Set(float64(p.memory.bytes))
	p.mu.Unlock()
	close(f.done)
	if f.err == nil {
		for i, pg := range f.pages {
			n := f.first + uint32(i)
			p.writeDisk(pageKey{f.seg.id, f.seg.num, n}, pg.data)
			pg.release()
		}
	}
}

// readRun reads the pages of a run from the bucket. The bucket tries again
// what fails before the first byte; a body that breaks off is asked for anew
// here.
func (p *pages) readRun(f *fetch) ([]*page, error) {
	ctx, cancel := context.WithTimeout(p.base, fetchTimeout)
	defer cancel()
	var err error
	for range fetchTries {
		var run []*page
		var began bool
		if run, began, err = p.tryRun(ctx, f); err == nil {
			return run, nil
		}
		if !began || ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (p *pages) tryRun(ctx context.Context, f *fetch) (run []*page, began bool, err error) {
	offset := int64(f.first) * pageSize
	length := min(int64(f.count)*pageSize, f.seg.size-offset)
	r, err := p.bucket.GetRange(ctx, f.seg.key, offset, length)
	if err != nil {
		return nil, false, err
	}
	defer r.Close()
	run = make([]*page, 0, f.count)
	for left := length; left > 0; left -= pageSize {
		pg := newPage(int32(min(left, pageSize)))
		if _, err := io.ReadFull(r, pg.data); err != nil {
			return nil, true, fmt.Errorf("read %d bytes at %d of %s: %w", length, offset, f.seg.key, err)
		}
		run = append(run, pg)
	}
	p.metrics.fromBucket.Add(float64(length))
	return run, true, nil
}

// readDisk fills in pages that were seen on disk, and returns those that were
// replaced meanwhile or cannot be read.
func (p *pages) readDisk(seg *segment, want []uint32, got []*page, onDisk []pageOnDisk) (again []int) {
	for _, d := range onDisk {
		key := pageKey{seg.id, seg.num, want[d.i]}
		pg := newPage(d.slot.size)
		err := p.disk.read(d.slot, pg.data)
		p.mu.Lock()
		switch {
		case err != nil:
			p.disk.drop(key)
			again = append(again, d.i)
		case !p.disk.holds(key, d.slot):
			again = append(again, d.i)
		default:
			got[d.i] = pg
			p.memory.add(key, pg)
			p.metrics.fromDisk.Add(float64(len(pg.data)))
		}
		p.metrics.memoryBytes.Set(float64(p.memory.bytes))
		p.mu.Unlock()
	}
	return again
}

// writeDisk keeps a page on disk. A disk that cannot is done without.
func (p *pages) writeDisk(key pageKey, page []byte) {
	p.mu.Lock()
	slot, ok := p.disk.reserve(key, time.Now())
	p.mu.Unlock()
	if !ok {
		return
	}
	err := p.disk.write(key, slot, page)
	p.mu.Lock()
	p.disk.commit(key, slot, len(page), err)
	p.metrics.diskBytes.Set(float64(p.disk.bytes()))
	p.mu.Unlock()
	if err != nil {
		p.logger.Warn("chunk cache cannot be written, will be left alone for a while", "err", err)
	}
}

// drop forgets pages of a segment, because what they hold was wrong.
func (p *pages) drop(seg *segment, want []uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range want {
		key := pageKey{seg.id, seg.num, n}
		p.memory.drop(key)
		p.disk.drop(key)
	}
}

// stop waits for fetches, which end with the base context.
func (p *pages) stop() error {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.running.Wait()
	return p.disk.close()
}

// pageLRU keeps pages in memory, the most recently used, up to a number of
// bytes. Its lock is pages.mu.
type pageLRU struct {
	limit, bytes int64
	pages        map[pageKey]*pageNode
	root         pageNode // root.next is the most recently used
}

type pageNode struct {
	key        pageKey
	page       *page
	prev, next *pageNode
}

func newPageLRU(limit int64) *pageLRU {
	l := &pageLRU{limit: limit, pages: map[pageKey]*pageNode{}}
	l.root.prev, l.root.next = &l.root, &l.root
	return l
}

// get returns a page that the caller releases; nil: it is not here.
func (l *pageLRU) get(key pageKey) *page {
	n := l.pages[key]
	if n == nil {
		return nil
	}
	n.unlink()
	l.push(n)
	n.page.refs.Add(1)
	return n.page
}

func (l *pageLRU) add(key pageKey, pg *page) {
	l.drop(key)
	pg.refs.Add(1)
	n := &pageNode{key: key, page: pg}
	l.pages[key] = n
	l.bytes += int64(len(pg.data))
	l.push(n)
	for l.bytes > l.limit {
		l.drop(l.root.prev.key)
	}
}

func (l *pageLRU) drop(key pageKey) {
	if n := l.pages[key]; n != nil {
		n.unlink()
		delete(l.pages, key)
		l.bytes -= int64(len(n.page.data))
		n.page.release()
	}
}

func (l *pageLRU) push(n *pageNode) {
	n.prev, n.next = &l.root, l.root.next
	n.prev.next, n.next.prev = n, n
}

func (n *pageNode) unlink() { n.prev.next, n.next.prev = n.next, n.prev }
