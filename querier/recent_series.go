package querier

import (
	"errors"
	"iter"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/hearth-metrics/hearth/wire"
)

// samplesBetween reads the chunks of series one after the other, without samples
// before minT or after maxT. What a list has of a series several times, one after
// the other, is merged.
func samplesBetween(list []wire.SelectedSeries, minT, maxT int64) []storage.Series {
	out := make([]storage.Series, 0, len(list))
	for same := range groups(list) {
		all := make([]storage.Series, len(same))
		for i := range same {
			all[i] = samplesOfOne(&same[i], minT, maxT)
		}
		if len(all) == 1 {
			out = append(out, all[0])
		} else {
			out = append(out, storage.ChainedSeriesMerge(all...))
		}
	}
	return out
}

func samplesOfOne(s *wire.SelectedSeries, minT, maxT int64) storage.Series {
	return &storage.SeriesEntry{
		Lset: s.Labels,
		SampleIteratorFn: func(it chunkenc.Iterator) chunkenc.Iterator {
			ci, ok := it.(*chunksIterator)
			if !ok {
				ci = &chunksIterator{}
			}
			ci.begin(s.Chunks, minT, maxT)
			return ci
		},
	}
}

var mergeChunkSeries = storage.NewCompactingChunkSeriesMerger(storage.ChainedSeriesMerge)

func chunksOf(list []wire.SelectedSeries) []storage.ChunkSeries {
	out := make([]storage.ChunkSeries, 0, len(list))
	for same := range groups(list) {
		all := make([]storage.ChunkSeries, len(same))
		for i := range same {
			all[i] = chunksOfOne(&same[i])
		}
		if len(all) == 1 {
			out = append(out, all[0])
		} else {
			out = append(out, mergeChunkSeries(all...))
		}
	}
	return out
}

// groups divides a sorted list into the parts of each series.
func groups(list []wire.SelectedSeries) iter.Seq[[]wire.SelectedSeries] {
	return func(yield func([]wire.SelectedSeries) bool) {
		for from := 0; from < len(list); {
			to := from + 1
			for to < len(list) && labels.Equal(list[from].Labels, list[to].Labels) {
				to++
			}
			if !yield(list[from:to]) {
				return
			}
			from = to
		}
	}
}

func chunksOfOne(s *wire.SelectedSeries) storage.ChunkSeries {
	return &storage.ChunkSeriesEntry{Lset: s.Labels, ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
		metas := make([]chunks.Meta, len(s.Chunks))
		for n, c := range s.Chunks {
			chunk, err := chunkenc.FromData(c.Encoding, c.Data)
			if err != nil {
				return failedChunks{err}
			}
			metas[n] = chunks.Meta{MinTime: c.MinT, MaxTime: c.MaxT, Chunk: chunk}
		}
		return storage.NewListChunkSeriesIterator(metas...)
	}}
}

type failedChunks struct{ err error }

func (failedChunks) Next() bool      { return false }
func (failedChunks) At() chunks.Meta { return chunks.Meta{} }
func (f failedChunks) Err() error    { return f.err }

// set is a storage.SeriesSet or a storage.ChunkSeriesSet.
type set[S any] interface {
	Next() bool
	At() S
	Err() error
	Warnings() annotations.Annotations
}

// mergedSamples is what several have answered, between two times, as one set.
// wait is called when the set is first used.
func mergedSamples(wait func() ([][]wire.SelectedSeries, error), minT, maxT int64) storage.SeriesSet {
	return &lazy[storage.Series]{open: func() set[storage.Series] {
		answers, err := wait()
		if err != nil {
			return storage.ErrSeriesSet(err)
		}
		sets := make([]storage.SeriesSet, len(answers))
		for i, a := range answers {
			sets[i] = &list[storage.Series]{rest: samplesBetween(a, minT, maxT)}
		}
		return storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge)
	}}
}

// mergedChunks is mergedSamples for whole chunks.
func mergedChunks(wait func() ([][]wire.SelectedSeries, error)) storage.ChunkSeriesSet {
	return &lazy[storage.ChunkSeries]{open: func() set[storage.ChunkSeries] {
		answers, err := wait()
		if err != nil {
			return storage.ErrChunkSeriesSet(err)
		}
		sets := make([]storage.ChunkSeriesSet, len(answers))
		for i, a := range answers {
			sets[i] = &list[storage.ChunkSeries]{rest: chunksOf(a)}
		}
		return storage.NewMergeChunkSeriesSet(sets, 0, storage.NewCompactingChunkSeriesMerger(storage.ChainedSeriesMerge))
	}}
}

// lazy is a set that is opened when it is first used.
type lazy[S any] struct {
	once sync.Once
	open func() set[S]
	set  set[S]
}

func (l *lazy[S]) get() set[S] {
	l.once.Do(func() { l.set = l.open() })
	return l.set
}

func (l *lazy[S]) Next() bool                        { return l.get().Next() }
func (l *lazy[S]) At() S                             { return l.get().At() }
func (l *lazy[S]) Err() error                        { return l.get().Err() }
func (l *lazy[S]) Warnings() annotations.Annotations { return l.get().Warnings() }

// list is series in memory, as a set.
type list[S any] struct{ at, rest []S }

// Next implements storage.SeriesSet.
func (l *list[S]) Next() bool {
	if len(l.rest) == 0 {
		return false
	}
	l.at, l.rest = l.rest[:1], l.rest[1:]
	return true
}

// At implements storage.SeriesSet.
func (l *list[S]) At() S { return l.at[0] }

// Err implements storage.SeriesSet.
func (*list[S]) Err() error { return nil }

// Warnings implements storage.SeriesSet.
func (*list[S]) Warnings() annotations.Annotations { return nil }

// chunksIterator reads chunks that do not overlap, one after the other, between
// two times.
type chunksIterator struct {
	chunkenc.Iterator // of the current chunk

	rest       []wire.SelectedChunk
	minT, maxT int64
	beyond     bool // the current chunk may have samples after maxT
	err        error
}

func (it *chunksIterator) begin(list []wire.SelectedChunk, minT, maxT int64) {
	it.rest, it.minT, it.maxT, it.beyond, it.err = list, minT, maxT, false, nil
	it.Iterator = chunkenc.NewNopIterator()
}

// Next implements chunkenc.Iterator.
func (it *chunksIterator) Next() chunkenc.ValueType {
	for {
		if vt := it.Iterator.Next(); vt != chunkenc.ValNone {
			return it.within(vt)
		}
		if it.Err() != nil {
			return chunkenc.ValNone
		}
		c := it.advance()
		if c == nil {
			return chunkenc.ValNone
		}
		if c.MinT < it.minT {
			return it.Seek(it.minT)
		}
	}
}

// Seek implements chunkenc.Iterator. It passes over chunks that end before t
// without reading them.
func (it *chunksIterator) Seek(t int64) chunkenc.ValueType {
	t = max(t, it.minT)
	for {
		if vt := it.Iterator.Seek(t); vt != chunkenc.ValNone || it.Err() != nil {
			return it.within(vt)
		}
		for len(it.rest) > 0 && it.rest[0].MaxT < t {
			it.rest = it.rest[1:]
		}
		if it.advance() == nil {
			return chunkenc.ValNone
		}
	}
}

// within ends the iterator where the time ends.
func (it *chunksIterator) within(vt chunkenc.ValueType) chunkenc.ValueType {
	if it.beyond && vt != chunkenc.ValNone && it.AtT() > it.maxT {
		it.Iterator, it.rest, it.beyond = chunkenc.NewNopIterator(), nil, false
		return chunkenc.ValNone
	}
	return vt
}

// Err implements chunkenc.Iterator.
func (it *chunksIterator) Err() error { return errors.Join(it.err, it.Iterator.Err()) }

// advance goes to the next chunk; nil at the end, and where it cannot be read.
func (it *chunksIterator) advance() *wire.SelectedChunk {
	if len(it.rest) == 0 {
		return nil
	}
	c := &it.rest[0]
	it.rest = it.rest[1:]
	chunk, err := chunkenc.FromData(c.Encoding, c.Data)
	if err != nil {
		it.err = err
		return nil
	}
	it.Iterator, it.beyond = chunk.Iterator(it.Iterator), c.MaxT > it.maxT
	return c
}
