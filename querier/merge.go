package querier

import (
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/hearth-metrics/hearth/tenant"
)

// mergeSamples joins recent and stored data: a series in both is one series,
// a sample in both is one sample. Both are primaries to Prometheus' merge,
// because what it calls secondary may fail and be left out with a warning;
// here either failing fails the query.
func mergeSamples(recent, stored storage.Querier) storage.Querier {
	return storage.NewMergeQuerier([]storage.Querier{recent, stored}, nil, storage.ChainedSeriesMerge)
}

// mergeChunks does the same for chunks. Those that overlap are rewritten.
func mergeChunks(recent, stored storage.ChunkQuerier) storage.ChunkQuerier {
	return storage.NewMergeChunkQuerier([]storage.ChunkQuerier{recent, stored}, nil,
		storage.NewCompactingChunkSeriesMerger(storage.ChainedSeriesMerge))
}

// guard counts the series of a query, has it pause between them where others
// need that, and refines the errors of its data, at whatever depth they come up:
// only here is it known that they are the storage's and not the expression's.
type guard struct {
	q       *Querier
	id      tenant.ID
	several bool // the query is about others as well
	limits  *tenant.Limits
	series  *seriesCount
	ticket  *ticket
}

func (g *guard) refine(err error) error {
	if err == nil {
		return nil
	}
	err = g.q.refine(g.id, err)
	if g.several {
		err = g.q.blame(g.id, err)
	}
	return err
}

// count is the error of a series too many.
func (g *guard) count() error {
	err := g.q.countSeries(g.limits, g.series)
	if err != nil && g.several {
		err = g.q.blame(g.id, err)
	}
	return err
}

type guardedSet struct {
	storage.SeriesSet
	*guard
	answer  bool           // the labels are the answer
	current storage.Series // made when asked for
	err     error          // the limit, or the first error of the set, refined once
}

func (s *guardedSet) Next() bool {
	s.current = nil
	if s.err != nil || !s.SeriesSet.Next() {
		return false
	}
	s.err = s.count()
	if s.err == nil && s.answer {
		size := int64(s.SeriesSet.At().Labels().ByteSize())
		s.err = s.q.checkAnswer(s.limits, int(s.series.labels.Add(size)))
	}
	return s.err == nil
}

func (s *guardedSet) Err() error {
	if s.err == nil {
		s.err = s.refine(s.SeriesSet.Err())
	}
	return s.err
}

func (s *guardedSet) At() storage.Series {
	if s.current == nil {
		s.current = &guardedSeries{s.SeriesSet.At(), s.guard}
	}
	return s.current
}

type guardedSeries struct {
	storage.Series
	guard *guard
}

func (s *guardedSeries) Iterator(reuse chunkenc.Iterator) chunkenc.Iterator {
	s.guard.ticket.pause()
	it, ok := reuse.(*guardedIterator)
	if !ok {
		it = &guardedIterator{}
	}
	it.guard, it.err = s.guard, nil
	it.Iterator = s.Series.Iterator(it.Iterator)
	return it
}

// guardedIterator passes all but Err on. What that costs a sample is measured
// by BenchmarkGuardedIterator.
type guardedIterator struct {
	chunkenc.Iterator
	guard *guard
	err   error
}

func (it *guardedIterator) Err() error {
	if it.err == nil {
		it.err = it.guard.refine(it.Iterator.Err())
	}
	return it.err
}

type guardedChunkSet struct {
	storage.ChunkSeriesSet
	*guard
	err error
}

func (s *guardedChunkSet) Next() bool {
	if s.err != nil || !s.ChunkSeriesSet.Next() {
		return false
	}
	s.err = s.count()
	return s.err == nil
}

func (s *guardedChunkSet) Err() error {
	if s.err == nil {
		s.err = s.refine(s.ChunkSeriesSet.Err())
	}
	return s.err
}

func (s *guardedChunkSet) At() storage.ChunkSeries {
	return &guardedChunkSeries{s.ChunkSeriesSet.At(), s.guard}
}

type guardedChunkSeries struct {
	storage.ChunkSeries
	guard *guard
}

func (s *guardedChunkSeries) Iterator(reuse chunks.Iterator) chunks.Iterator {
	it, ok := reuse.(*guardedChunks)
	if !ok {
		it = &guardedChunks{}
	}
	it.guard = s.guard
	it.Iterator = s.ChunkSeries.Iterator(it.Iterator)
	return it
}

type guardedChunks struct {
	chunks.Iterator
	guard *guard
}

func (it *guardedChunks) Next() bool {
	if !it.Iterator.Next() {
		return false
	}
	it.guard.series.samples.Add(int64(it.At().Chunk.NumSamples()))
	return true
}

func (it *guardedChunks) Err() error { return it.guard.refine(it.Iterator.Err()) }
