package block

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// refusedSeries wraps what accept says of a series, so that it stands alone.
type refusedSeries struct{ err error }

func (r *refusedSeries) Error() string { return r.err.Error() }
func (r *refusedSeries) Unwrap() error { return r.err }

// Verify reads all of the block in dir, as a block has to be that comes from
// outside: what Check checks, each sample of each chunk, and that every label
// finds its series and no others. accept, if it is not nil, is asked about the
// labels of every series. Returned is what the block has.
//
// Whatever a reader of the block could fall over is an error here, so that it
// does not happen in the middle of a query: the readers are not made for files
// that somebody has forged.
func Verify(ctx context.Context, dir string, accept func(labels.Labels) error) (st tsdb.BlockStats, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is broken in a way that its reader does not expect: %v", p)
		}
	}()
	b, err := tsdb.OpenBlock(quiet, dir, nil, nil)
	if err != nil {
		return st, fmt.Errorf("open: %w", err)
	}
	defer func() { _ = b.Close() }() // it was only read
	chunkr, err := b.Chunks()
	if err != nil {
		return st, fmt.Errorf("open chunks: %w", err)
	}
	defer func() { _ = chunkr.Close() }() // it was only read
	v := verifier{chunks: chunkr, accept: accept}
	if st.NumSeries, err = walk(ctx, b, v.series); err != nil {
		var refused *refusedSeries
		if errors.As(err, &refused) {
			return st, refused.err
		}
		return st, err
	}
	st.NumChunks, st.NumFloatSamples, st.NumHistogramSamples = v.count, v.floats, v.histograms
	st.NumSamples = st.NumFloatSamples + st.NumHistogramSamples
	tombs, err := b.Tombstones()
	if err != nil {
		return st, fmt.Errorf("open tombstones: %w", err)
	}
	defer func() { _ = tombs.Close() }() // likewise
	st.NumTombstones = tombs.Total()
	return st, verifyPostings(ctx, b, v.pairs)
}

type verifier struct {
	chunks tsdb.ChunkReader
	accept func(labels.Labels) error

	pairs                     uint64 // labels of all series
	count, floats, histograms uint64
	it                        chunkenc.Iterator
}

func (v *verifier) series(ls labels.Labels, metas []chunks.Meta) error {
	if v.accept != nil {
		if err := v.accept(ls); err != nil {
			return &refusedSeries{err}
		}
	}
	before := ""
	if err := ls.Validate(func(l labels.Label) error {
		if l.Name == "" || l.Value == "" || (before != "" && l.Name <= before) {
			return errors.New("its labels are not in order, or empty")
		}
		before = l.Name
		v.pairs++
		return nil
	}); err != nil {
		return err
	}
	for _, m := range metas {
		if err := v.chunk(m); err != nil {
			return fmt.Errorf("chunk from %d to %d: %w", m.MinTime, m.MaxTime, err)
		}
	}
	v.count += uint64(len(metas))
	return nil
}

// chunk reads all samples of a chunk.
func (v *verifier) chunk(m chunks.Meta) error {
	chunk, iterable, err := v.chunks.ChunkOrIterable(m)
	switch {
	case err != nil:
		return err
	case iterable != nil:
		return errors.New("it is not whole")
	}
	if err := checkLayout(chunk); err != nil {
		return err
	}
	v.it = chunk.Iterator(v.it)
	n, last := 0, m.MinTime-1
	for kind := v.it.Next(); kind != chunkenc.ValNone; kind = v.it.Next() {
		t := v.it.AtT()
		if t <= last || (n == 0 && t != m.MinTime) {
			return fmt.Errorf("sample at %d is out of order", t)
		}
		if err := v.sample(kind); err != nil {
			return fmt.Errorf("sample at %d: %w", t, err)
		}
		last = t
		n++
	}
	switch {
	case v.it.Err() != nil:
		return v.it.Err()
	case n == 0, last != m.MaxTime, n != chunk.NumSamples():
		return fmt.Errorf("it has %d samples of %d, the last at %d", n, chunk.NumSamples(), last)
	}
	return nil
}

func (v *verifier) sample(kind chunkenc.ValueType) error {
	switch kind {
	case chunkenc.ValHistogram:
		v.histograms++
		_, h := v.it.AtHistogram(nil)
		return h.Validate()
	case chunkenc.ValFloatHistogram:
		v.histograms++
		_, h := v.it.AtFloatHistogram(nil)
		return h.Validate()
	default:
		v.floats++
		v.it.At()
		return nil
	}
}

// verifyPostings checks that each label's list has series that have it, and
// that the lists together have as many entries as the series have labels: then
// none is missing.
func verifyPostings(ctx context.Context, b *tsdb.Block, pairs uint64) error {
	index, err := b.Index()
	if err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	defer index.Close()
	names, err := index.LabelNames(ctx)
	if err != nil {
		return fmt.Errorf("read label names: %w", err)
	}
	var found uint64
	for _, name := range names {
		values, err := index.SortedLabelValues(ctx, name, nil)
		if err != nil {
			return fmt.Errorf("read values of label %q: %w", name, err)
		}
		for _, value := range values {
			n, err := verifyList(ctx, index, name, value)
			if err != nil {
				return fmt.Errorf("list of %s=%q: %w", name, value, err)
			}
			found += n
		}
	}
	if found != pairs {
		return fmt.Errorf("series have %d labels, the index lists %d", pairs, found)
	}
	return nil
}

func verifyList(ctx context.Context, index tsdb.IndexReader, name, value string) (n uint64, err error) {
	list, err := index.Postings(ctx, name, value)
	if err != nil {
		return 0, err
	}
	var builder labels.ScratchBuilder
	var last storage.SeriesRef
	for list.Next() {
		ref := list.At()
		if n > 0 && ref <= last {
			return 0, errors.New("it is not in order")
		}
		last = ref
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err := index.Series(ref, &builder, nil); err != nil {
			return 0, fmt.Errorf("read series: %w", err)
		}
		if ls := builder.Labels(); ls.Get(name) != value {
			return 0, fmt.Errorf("it has %s", ls)
		}
	}
	return n, list.Err()
}
