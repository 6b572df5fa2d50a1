package storegateway

import (
	"bytes"
	"context"
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	frameBytes = 256 << 10 // of an answer

	// maxLabelBytes bounds the names or values of one answer, which are sorted
	// in memory.
	maxLabelBytes = 64 << 20

	waitingPerSlot = 16 // questions that wait for one that is answered
)

// Server is the gateway as other members of the cluster see it. It answers a
// bounded number of questions at once, so that its memory is bounded too.
func (g *Gateway) Server() wire.StoreServer { return &server{g} }

type server struct{ g *Gateway }

// enter waits for a turn, and returns how to end it.
func (s *server) enter(ctx context.Context) (leave func(), err error) {
	if s.g.waiting.Add(1) > int64(waitingPerSlot*cap(s.g.turns)) {
		s.g.waiting.Add(-1)
		return nil, s.g.word(ctx, errBusy(), "")
	}
	defer s.g.waiting.Add(-1)
	select {
	case s.g.turns <- struct{}{}:
		return func() { <-s.g.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Select implements wire.StoreServer.
func (s *server) Select(ctx context.Context, r *wire.BlocksSelect, send func(*wire.SeriesFrame) error) error {
	id, ms, err := parse(r.Tenant, r.Matchers)
	if err != nil {
		return err
	}
	if err := send(&wire.SeriesFrame{}); err != nil {
		return err
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	own, pooled, err := s.g.openBlocks(ctx, id, r.MinT, r.MaxT, r.Blocks)
	if err != nil {
		return err
	}
	q := mergeChunks(id, own, pooled, sideBySide)
	defer func() { _ = q.Close() }() // of reading only
	hints := &storage.SelectHints{Start: r.MinT, End: r.MaxT, Limit: r.Limit, DisableTrimming: r.Whole}
	if r.NoChunks {
		hints.Func = "series"
	}
	f := &framer{send: send}
	set := q.Select(ctx, true, hints, ms...)
	var it chunks.Iterator
	for set.Next() {
		series := set.At()
		if r.NoChunks {
			err = f.add(wire.SelectedSeries{Labels: series.Labels()})
		} else {
			it = series.Iterator(it)
			err = f.addChunks(series.Labels(), it)
		}
		if err != nil {
			return err
		}
	}
	if err := set.Err(); err != nil {
		return err
	}
	f.frame.Searched = slices.Concat(r.Blocks.Own, r.Blocks.Pooled)
	return send(&f.frame)
}

// parse reads who asks for what.
func parse(name string, matchers []wire.Matcher) (tenant.ID, []*labels.Matcher, error) {
	id, err := tenant.ParseID(name)
	if err != nil {
		return "", nil, err
	}
	ms, err := wire.FromMatchers(matchers)
	return id, ms, err
}

// framer gathers series until a frame is full.
type framer struct {
	send  func(*wire.SeriesFrame) error
	frame wire.SeriesFrame
	size  int
}

func (f *framer) add(s wire.SelectedSeries) error {
	f.frame.Series = append(f.frame.Series, s)
	f.size += int(s.Labels.ByteSize())
	for i := range s.Chunks {
		f.size += len(s.Chunks[i].Data)
	}
	if f.size < frameBytes {
		return nil
	}
	full := f.frame
	f.frame, f.size = wire.SeriesFrame{}, 0
	return f.send(&full)
}

// addChunks adds a series once for each block that it is in. What replicas
// have written alike, chunk for chunk, is sent once.
func (f *framer) addChunks(ls labels.Labels, it chunks.Iterator) error {
	marked, _ := it.(*blocksIterator)
	var of [][]wire.SelectedChunk // by block
	for it.Next() {
		m := it.At()
		if len(of) == 0 || marked != nil && marked.begins() {
			of = append(of, nil)
		}
		last := &of[len(of)-1]
		*last = append(*last, wire.SelectedChunk{MinT: m.MinTime, MaxT: m.MaxTime, Encoding: m.Chunk.Encoding(), Data: m.Chunk.Bytes()})
	}
	if err := it.Err(); err != nil {
		return err
	}
	for i, cs := range of {
		if slices.ContainsFunc(of[:i], func(other []wire.SelectedChunk) bool { return slices.EqualFunc(cs, other, sameChunk) }) {
			continue
		}
		if err := f.add(wire.SelectedSeries{Labels: ls, Chunks: cs}); err != nil {
			return err
		}
	}
	return nil
}

func sameChunk(a, b wire.SelectedChunk) bool {
	return a.MinT == b.MinT && a.MaxT == b.MaxT && a.Encoding == b.Encoding && bytes.Equal(a.Data, b.Data)
}

// Labels implements wire.StoreServer.
func (s *server) Labels(ctx context.Context, r *wire.BlocksLabels, send func(*wire.LabelsFrame) error) error {
	id, ms, err := parse(r.Tenant, r.Matchers)
	if err != nil {
		return err
	}
	if err := send(&wire.LabelsFrame{}); err != nil {
		return err
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	q, err := s.g.Querier(ctx, id, r.MinT, r.MaxT, r.Blocks)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }() // of reading only
	hints := &storage.LabelHints{Limit: r.Limit}
	var values []string
	if r.Name == "" {
		values, _, err = q.LabelNames(ctx, hints, ms...)
	} else {
		values, _, err = q.LabelValues(ctx, r.Name, hints, ms...)
	}
	if err != nil {
		return err
	}
	return sendLabels(values, slices.Concat(r.Blocks.Own, r.Blocks.Pooled), send)
}

func sendLabels(values []string, searched []ulid.ULID, send func(*wire.LabelsFrame) error) error {
	total := 0
	for _, v := range values {
		if total += len(v); total > maxLabelBytes {
			return errLabelBytes()
		}
	}
	for from, size := 0, 0; ; {
		to := from
		for ; to < len(values) && size < frameBytes; to++ {
			size += len(values[to])
		}
		f := &wire.LabelsFrame{Values: values[from:to]}
		from, size = to, 0
		if from == len(values) {
			f.Searched = searched
			return send(f)
		}
		if err := send(f); err != nil {
			return err
		}
	}
}

// sideBySide is a series of several blocks, whose chunks come one block after
// the other as they are. Where they overlap whoever asks merges samples; chunks
// would have to be written anew here and read again there.
func sideBySide(all ...storage.ChunkSeries) storage.ChunkSeries {
	if len(all) == 1 {
		return all[0]
	}
	return &storage.ChunkSeriesEntry{Lset: all[0].Labels(), ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
		return &blocksIterator{rest: all}
	}}
}

// blocksIterator is the chunks of a series in several blocks.
type blocksIterator struct {
	chunks.Iterator // of the current block; nil before the first Next

	rest  []storage.ChunkSeries
	first bool // the current chunk is the first of this block
}

// Next implements chunks.Iterator.
func (b *blocksIterator) Next() bool {
	b.first = false
	for {
		if b.Iterator != nil && (b.Iterator.Next() || b.Iterator.Err() != nil) {
			return b.Iterator.Err() == nil
		}
		if len(b.rest) == 0 {
			return false
		}
		b.Iterator, b.first = b.rest[0].Iterator(nil), true
		b.rest = b.rest[1:]
	}
}

// Err implements chunks.Iterator.
func (b *blocksIterator) Err() error {
	if b.Iterator == nil {
		return nil
	}
	return b.Iterator.Err()
}

// begins says whether the current chunk is the first one of a block.
func (b *blocksIterator) begins() bool {
	inner, ok := b.Iterator.(*blocksIterator)
	return b.first || ok && inner.begins()
}
