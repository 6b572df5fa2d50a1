package storegateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
)

// A window of the lookahead is full when it has so many series, or so many
// bytes of chunks. The first one is small, so that an answer begins soon, and
// each next one is twice as large.
const (
	firstWindowSeries = 256
	lastWindowSeries  = 4096
	firstWindowBytes  = 512 << 10
	lastWindowBytes   = 4 << 20

	// What the windows of all blocks of one query may hold together, as far as
	// windows of the least size allow.
	queryWindows      = 64 << 20
	leastWindow       = 64 << 10
	queryWindowSeries = 32 << 10

	maxKnownSize  = 1 << 20 // a distance between chunks above this is no chunk's size
	contextChecks = 128     // series between two looks at the context
)

// share is how much one of the blocks that a query reads may have in a window.
type share struct {
	series int
	bytes  int64 // of chunks
}

func shareOf(blocks int) share {
	return share{
		series: min(max(queryWindowSeries/max(blocks, 1), firstWindowSeries), lastWindowSeries),
		bytes:  min(max(queryWindows/int64(residentBatches*max(blocks, 1)), leastWindow), lastWindowBytes),
	}
}

// indexReader is a block's index as one Select sees it. It reads the entries
// of the series that the Select is about to return ahead of it, and plans the
// chunks that will be needed.
//
// Errors are worded for the tenant. Strings do not point into the mapped file,
// so that they outlive it.
type indexReader struct {
	tsdb.IndexReader

	ctx        context.Context
	minT, maxT int64             // chunks outside are of no interest
	window     share             // of the largest window
	rest       []*labels.Matcher // tested on each series: those the postings do not cover
	plan       *plan             // nil: nobody needs chunks
	fail       func(error) error
	letGo      func() // called now and then, when more of the index has been touched

	ahead  *lookahead
	direct int // series read without it
}

// SortedPostings is where tsdb hands over the series it is about to read. Where
// no chunks are needed and all of the series match, there is nothing to do ahead.
func (r *indexReader) SortedPostings(p index.Postings) index.Postings {
	if r.plan == nil && len(r.rest) == 0 {
		return r.wordPostings(r.IndexReader.SortedPostings(p))
	}
	r.ahead = lookaheads.Get().(*lookahead) //nolint:forcetypeassert // there are no others
	r.ahead.begin(r, r.IndexReader.SortedPostings(p))
	return r.ahead
}

// Close implements tsdb.IndexReader. Nobody reads after it.
func (r *indexReader) Close() error {
	if r.ahead != nil {
		r.ahead.end()
		r.ahead = nil
	}
	return r.IndexReader.Close()
}

// Series returns the entry of the series that the lookahead is at.
func (r *indexReader) Series(ref storage.SeriesRef, b *labels.ScratchBuilder, chks *[]chunks.Meta) error {
	if r.ahead == nil {
		if r.direct++; r.direct%firstWindowSeries == 0 {
			r.letGo()
			if r.ctx.Err() != nil {
				return r.ctx.Err()
			}
		}
	}
	if r.ahead == nil || r.ahead.At() != ref {
		return r.word(r.IndexReader.Series(ref, b, chks))
	}
	s := &r.ahead.window.series[r.ahead.pos]
	b.Assign(s.labels)
	*chks = append((*chks)[:0], r.ahead.window.chunks[s.from:s.to]...)
	return nil
}

func (r *indexReader) Postings(ctx context.Context, name string, values ...string) (index.Postings, error) {
	p, err := r.IndexReader.Postings(ctx, name, values...)
	return p, r.word(err)
}

func (r *indexReader) PostingsForLabelMatching(ctx context.Context, name string, match func(string) bool) index.Postings {
	defer r.letGo()
	return r.wordPostings(r.IndexReader.PostingsForLabelMatching(ctx, name, match))
}

func (r *indexReader) PostingsForAllLabelValues(ctx context.Context, name string) index.Postings {
	defer r.letGo()
	return r.wordPostings(r.IndexReader.PostingsForAllLabelValues(ctx, name))
}

func (r *indexReader) SortedLabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, error) {
	vs, err := r.IndexReader.SortedLabelValues(ctx, name, hints, ms...)
	return cloneAll(vs), r.word(err)
}

func (r *indexReader) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, error) {
	vs, err := r.IndexReader.LabelValues(ctx, name, hints, ms...)
	return cloneAll(vs), r.word(err)
}

func (r *indexReader) LabelNames(ctx context.Context, ms ...*labels.Matcher) ([]string, error) {
	ns, err := r.IndexReader.LabelNames(ctx, ms...)
	return cloneAll(ns), r.word(err)
}

func (r *indexReader) LabelNamesFor(ctx context.Context, p index.Postings) ([]string, error) {
	ns, err := r.IndexReader.LabelNamesFor(ctx, p)
	return cloneAll(ns), r.word(err)
}

func (r *indexReader) word(err error) error {
	if err == nil {
		return nil
	}
	return r.fail(err)
}

func (r *indexReader) wordPostings(p index.Postings) index.Postings {
	if err := p.Err(); err != nil {
		return index.ErrPostings(r.fail(err))
	}
	return p
}

func cloneAll(ss []string) []string {
	for i, s := range ss {
		ss[i] = strings.Clone(s)
	}
	return ss
}

// lookahead is postings that know the index entries of the series to come. It
// holds two windows of them: the one that is being returned, and the next, so
// that its chunks are on their way when the first is at its end.
type lookahead struct {
	r        *indexReader
	postings index.Postings
	series   int   // of the next window
	bytes    int64 // of the next window

	window *window // nil before the first Next
	pos    int     // in window
	next   *window
	err    error

	windows [2]window
	builder labels.ScratchBuilder
	metas   []chunks.Meta
	planned []plannedChunk // of the window that is being filled
}

// lookaheads are those that small queries leave, with room for the next one.
var lookaheads = sync.Pool{New: func() any { return new(lookahead) }}

func (l *lookahead) begin(r *indexReader, p index.Postings) {
	l.r, l.postings = r, p
	l.series, l.bytes = firstWindowSeries, min(firstWindowBytes, r.window.bytes)
}

func (l *lookahead) end() {
	if cap(l.windows[0].series) > lastWindowSeries || cap(l.windows[0].chunks)+cap(l.windows[1].chunks) > 2*lastWindowSeries {
		return
	}
	for i := range l.windows {
		l.windows[i].empty()
	}
	l.builder.Reset()
	*l = lookahead{windows: l.windows, builder: l.builder, metas: l.metas[:0], planned: l.planned[:0]}
	lookaheads.Put(l)
}

type window struct {
	series []windowSeries
	chunks []chunks.Meta
}

func (w *window) empty() {
	clear(w.series) // the labels
	w.series, w.chunks = w.series[:0], w.chunks[:0]
}

type windowSeries struct {
	ref      storage.SeriesRef
	labels   labels.Labels
	from, to int // in window.chunks
}

// Next goes to the next series that matches and has chunks in the range.
func (l *lookahead) Next() bool {
	if l.window == nil {
		l.window, l.next = l.fill(&l.windows[0]), l.fill(&l.windows[1])
		l.pos = -1
	}
	if l.pos++; l.pos < len(l.window.series) {
		return true
	}
	if l.next == nil || len(l.next.series) == 0 {
		return false
	}
	done := l.window
	l.window, l.pos = l.next, 0
	l.next = l.fill(done)
	return true
}

// Seek goes to the first series with a reference of at least ref.
func (l *lookahead) Seek(ref storage.SeriesRef) bool {
	if l.window != nil && l.pos < len(l.window.series) && l.pos >= 0 && l.At() >= ref {
		return true
	}
	for l.Next() {
		if l.At() >= ref {
			return true
		}
	}
	return false
}

// At is the series' reference in the index.
func (l *lookahead) At() storage.SeriesRef { return l.window.series[l.pos].ref }

// Err says why there is nothing more: an index that cannot be read, a limit,
// or a context that has ended.
func (l *lookahead) Err() error {
	// What was read before an error is still returned.
	if l.window != nil && l.pos < len(l.window.series) {
		return nil
	}
	return l.err
}

// fill reads the next window, into one that is done with; it has no series at
// the end, or after an error.
func (l *lookahead) fill(w *window) *window {
	w.empty()
	l.planned = l.planned[:0]
	if l.err == nil {
		l.err = l.plan(w)
	}
	if l.err != nil {
		w.empty()
	}
	return w
}

func (l *lookahead) plan(w *window) error {
	if err := l.read(w); err != nil {
		return err
	}
	if len(w.series) >= firstWindowSeries {
		l.r.letGo()
	}
	l.series = min(2*l.series, l.r.window.series)
	l.bytes = min(2*l.bytes, l.r.window.bytes)
	if l.r.plan == nil || len(w.series) == 0 {
		return nil
	}
	n, err := l.r.plan.add(slices.Clone(l.planned))
	if err != nil {
		return err
	}
	for i := range w.chunks {
		w.chunks[i].Ref = placeIn(n, i)
	}
	return nil
}

func (l *lookahead) read(w *window) error {
	var size int64
	for n := 0; len(w.series) < l.series && size < l.bytes && l.postings.Next(); n++ {
		if n%contextChecks == 0 && l.r.ctx.Err() != nil {
			return l.r.ctx.Err()
		}
		ref := l.postings.At()
		if err := l.r.IndexReader.Series(ref, &l.builder, &l.metas); err != nil {
			return l.r.fail(fmt.Errorf("read series %d: %w", ref, err))
		}
		ls := l.builder.Labels()
		if !matchAll(ls, l.r.rest) {
			continue
		}
		from := len(w.chunks)
		for i, m := range l.metas {
			if m.MaxTime < l.r.minT || m.MinTime > l.r.maxT {
				continue
			}
			w.chunks = append(w.chunks, m)
			if l.r.plan != nil {
				c := planChunk(l.metas[i:])
				size += max(int64(c.size), sizeGuess/4)
				l.planned = append(l.planned, c)
			}
		}
		if from < len(w.chunks) {
			w.series = append(w.series, windowSeries{ref: ref, labels: ls, from: from, to: len(w.chunks)})
		}
	}
	if err := l.postings.Err(); err != nil {
		return l.r.fail(err)
	}
	return nil
}

// planChunk plans the first of a series' remaining chunks. Chunks of a series
// are written one after the other, so the next one's place tells its size.
func planChunk(ms []chunks.Meta) plannedChunk {
	c := plannedChunk{ref: chunks.BlockChunkRef(ms[0].Ref)}
	if len(ms) == 1 {
		return c
	}
	if d := int64(ms[1].Ref) - int64(ms[0].Ref); d > 0 && d <= maxKnownSize {
		c.size = uint32(d)
	}
	return c
}

func matchAll(ls labels.Labels, ms []*labels.Matcher) bool {
	return !slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return !m.Matches(ls.Get(m.Name)) })
}
