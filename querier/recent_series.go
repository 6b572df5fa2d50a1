package querier

import (
	"errors"
	"sync"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/hearth-metrics/hearth/wire"
)

// samplesOf reads the chunks of series one after the other.
func samplesOf(list []wire.SelectedSeries) []storage.Series {
	out := make([]storage.Series, len(list))
	for i := range list {
		s := &list[i]
		out[i] = &storage.SeriesEntry{
			Lset: s.Labels,
			SampleIteratorFn: func(it chunkenc.Iterator) chunkenc.Iterator {
				ci, ok := it.(*chunksIterator)
				if !ok {
					ci = &chunksIterator{}
				}
				ci.begin(s.Chunks)
				return ci
			},
		}
	}
	return out
}

func chunksOf(list []wire.SelectedSeries) []storage.ChunkSeries {
	out := make([]storage.ChunkSeries, len(list))
	for i := range list {
		s := &list[i]
		out[i] = &storage.ChunkSeriesEntry{Lset: s.Labels, ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
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
	return out
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

// chunksIterator reads chunks that do not overlap, one after the other.
type chunksIterator struct {
	chunkenc.Iterator // of the current chunk

	rest []wire.SelectedChunk
	err  error
}

func (it *chunksIterator) begin(list []wire.SelectedChunk) {
	it.rest, it.err = list, nil
	it.Iterator = chunkenc.NewNopIterator()
}

// Next implements chunkenc.Iterator.
func (it *chunksIterator) Next() chunkenc.ValueType {
	for {
		if vt := it.Iterator.Next(); vt != chunkenc.ValNone || it.Err() != nil || !it.advance() {
			return vt
		}
	}
}

// Seek implements chunkenc.Iterator. It passes over chunks that end before t
// without reading them.
func (it *chunksIterator) Seek(t int64) chunkenc.ValueType {
	for {
		if vt := it.Iterator.Seek(t); vt != chunkenc.ValNone || it.Err() != nil {
			return vt
		}
		for len(it.rest) > 0 && it.rest[0].MaxT < t {
			it.rest = it.rest[1:]
		}
		if !it.advance() {
			return chunkenc.ValNone
		}
	}
}

// Err implements chunkenc.Iterator.
func (it *chunksIterator) Err() error { return errors.Join(it.err, it.Iterator.Err()) }

func (it *chunksIterator) advance() bool {
	if len(it.rest) == 0 {
		return false
	}
	c := it.rest[0]
	it.rest = it.rest[1:]
	chunk, err := chunkenc.FromData(c.Encoding, c.Data)
	if err != nil {
		it.err = err
		return false
	}
	it.Iterator = chunk.Iterator(it.Iterator)
	return true
}
