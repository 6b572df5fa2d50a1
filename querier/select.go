package querier

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/hearth-metrics/hearth/tenant"
)

// queryable reads as the tenants that each Select's context names. A Querier of
// it serves one query.
type queryable struct{ q *Querier }

func (s queryable) Querier(mint, maxt int64) (storage.Querier, error) {
	return &sampleReader{reader[*sampleQuerier]{q: s.q, begin: func(several bool) *sampleQuerier {
		return &sampleQuerier{session[storage.Querier]{q: s.q, mint: mint, maxt: maxt, several: several, open: s.q.openSamples}}
	}}}, nil
}

func (s queryable) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	return &chunkReader{reader[*chunkQuerier]{q: s.q, begin: func(several bool) *chunkQuerier {
		return &chunkQuerier{session[storage.ChunkQuerier]{q: s.q, mint: mint, maxt: maxt, several: several, open: s.q.openChunks}}
	}}}, nil
}

func (s queryable) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	ids, several, err := tenant.AllFromContext(ctx)
	if err != nil {
		return nil, err
	}
	of := func(ctx context.Context, id tenant.ID) (storage.ExemplarQuerier, error) {
		from, err := s.q.recent.ExemplarQuerier(ctx, id)
		e := exemplarQuerier{q: s.q, id: id, several: several, policy: tenant.PolicyFrom(ctx), from: from}
		if err != nil {
			return nil, e.refine(s.q.refineIn(ctx, id, err))
		}
		return e, nil
	}
	if several {
		return exemplarsOfSeveral{ctx, ids, of}, nil
	}
	return of(ctx, ids[0])
}

// openSamples opens recent data before stored: what moves from one to the
// other meanwhile is then found twice rather than never.
func (q *Querier) openSamples(ctx context.Context, id tenant.ID, mint, maxt int64) (storage.Querier, error) {
	recent, held, err := q.recent.Querier(ctx, id, mint, maxt)
	if err != nil {
		return nil, err
	}
	stored, err := q.stored.Querier(ctx, id, mint, maxt, held)
	if err != nil {
		return nil, errors.Join(err, recent.Close())
	}
	return mergeSamples(recent, stored), nil
}

func (q *Querier) openChunks(ctx context.Context, id tenant.ID, mint, maxt int64) (storage.ChunkQuerier, error) {
	recent, held, err := q.recent.ChunkQuerier(ctx, id, mint, maxt)
	if err != nil {
		return nil, err
	}
	stored, err := q.stored.ChunkQuerier(ctx, id, mint, maxt, held)
	if err != nil {
		return nil, errors.Join(err, recent.Close())
	}
	return mergeChunks(recent, stored), nil
}

// narrow adds what the token of the request may see at all. Every read goes
// through here, or asks tenant.PolicyFrom itself. It is a slice of its own, as
// heads reorder matchers, and several tenants are asked at once.
func narrow(ctx context.Context, ms []*labels.Matcher) []*labels.Matcher {
	return slices.Concat(ms, tenant.PolicyFrom(ctx))
}

// window is what a session opens once: selectors of one query that look at the
// same time see the same data, as in "a / a".
type window struct {
	id         tenant.ID
	mint, maxt int64
}

// session is what one query has opened of one tenant. Q is a storage.Querier or
// a storage.ChunkQuerier over recent and stored data.
type session[Q storage.LabelQuerier] struct {
	q          *Querier
	mint, maxt int64
	several    bool // the query is about others as well
	open       func(ctx context.Context, id tenant.ID, mint, maxt int64) (Q, error)
	series     seriesCount

	mu     sync.Mutex
	opened map[window]Q
	closed bool
}

var errClosed = errors.New("BUG: select on a closed querier")

// source is what a Select or a label call reads.
type source[Q storage.LabelQuerier] struct {
	window
	data  Q
	guard *guard
}

// at returns the data between mint and maxt, as far as the session and the
// tenant's look back go; nil where that is no time at all. The session closes
// what it opens.
func (s *session[Q]) at(ctx context.Context, mint, maxt int64) (*source[Q], error) {
	id, err := tenant.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	limits := s.q.limits(id)
	w := window{id, clamp(limits, max(mint, s.mint)), min(maxt, s.maxt)}
	if w.maxt < w.mint {
		return nil, nil
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	data, ok := s.opened[w]
	if !ok {
		if data, err = s.open(ctx, id, w.mint, w.maxt); err != nil {
			return nil, s.refine(ctx, id, err)
		}
		if s.opened == nil {
			s.opened = map[window]Q{}
		}
		s.opened[w] = data
	}
	return &source[Q]{w, data, &guard{q: s.q, id: id, several: s.several, limits: limits, series: &s.series, ticket: ticketFrom(ctx)}}, nil
}

func (s *session[Q]) refine(ctx context.Context, id tenant.ID, err error) error {
	err = s.q.refineIn(ctx, id, err)
	if s.several {
		err = s.q.blame(id, err)
	}
	return err
}

// hinted is at for a Select: it returns hints that say the times that are
// read, because a TSDB goes by the hints' times where there are hints. Hints
// of some remote read clients have none.
func (s *session[Q]) hinted(ctx context.Context, h *storage.SelectHints) (*source[Q], *storage.SelectHints, error) {
	mint, maxt := s.mint, s.maxt
	if h != nil && (h.Start != 0 || h.End != 0) {
		mint, maxt = h.Start, h.End
	}
	src, err := s.at(ctx, mint, maxt)
	if src == nil || h == nil {
		return src, nil, err
	}
	narrowed := *h
	narrowed.Start, narrowed.End = src.mint, src.maxt
	return src, &narrowed, nil
}

// LabelValues implements storage.LabelQuerier. Values are good until Close.
func (s *session[Q]) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	src, err := s.at(ctx, s.mint, s.maxt)
	if src == nil {
		return nil, nil, err
	}
	values, warnings, err := src.data.LabelValues(ctx, name, h, narrow(ctx, ms)...)
	if err == nil {
		err = s.q.checkNames(src.guard.limits, values)
	}
	return values, warnings, s.refine(ctx, src.id, err)
}

// LabelNames implements storage.LabelQuerier. Names may be kept: Prometheus'
// API uses them after Close, when the file they lie in may be unmapped.
func (s *session[Q]) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	src, err := s.at(ctx, s.mint, s.maxt)
	if src == nil {
		return nil, nil, err
	}
	names, warnings, err := src.data.LabelNames(ctx, h, narrow(ctx, ms)...)
	if err == nil {
		err = s.q.checkNames(src.guard.limits, names)
	}
	names = slices.Clone(names)
	for i, name := range names {
		names[i] = strings.Clone(name)
	}
	return names, warnings, s.refine(ctx, src.id, err)
}

// Close closes all that was opened.
func (s *session[Q]) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for w := range s.opened { // all of one tenant
		s.q.meter.Read(w.id, int(s.series.n.Load()), int(s.series.samples.Load()))
		break
	}
	var errs []error
	for _, from := range s.opened {
		errs = append(errs, from.Close())
	}
	s.opened = nil
	return errors.Join(errs...)
}

type sampleQuerier struct{ session[storage.Querier] }

func (s *sampleQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	src, h, err := s.hinted(ctx, h)
	switch {
	case err != nil:
		return storage.ErrSeriesSet(err)
	case src == nil:
		return storage.EmptySeriesSet()
	}
	set := src.data.Select(ctx, sorted, h, narrow(ctx, ms)...)
	return &guardedSet{SeriesSet: set, guard: src.guard, answer: h != nil && h.Func == "series"}
}

type chunkQuerier struct{ session[storage.ChunkQuerier] }

func (s *chunkQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	src, h, err := s.hinted(ctx, h)
	switch {
	case err != nil:
		return storage.ErrChunkSeriesSet(err)
	case src == nil:
		return storage.EmptyChunkSeriesSet()
	}
	return &guardedChunkSet{ChunkSeriesSet: src.data.Select(ctx, sorted, h, narrow(ctx, ms)...), guard: src.guard}
}

type exemplarQuerier struct {
	q       *Querier
	id      tenant.ID
	several bool // the query is about others as well
	policy  []*labels.Matcher
	from    storage.ExemplarQuerier
}

func (e exemplarQuerier) refine(err error) error {
	err = e.q.refine(e.id, err)
	if e.several {
		err = e.q.blame(e.id, err)
	}
	return err
}

func (e exemplarQuerier) Select(start, end int64, ms ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	none := []exemplar.QueryResult{} // not nil: the API's answer is [] then
	start = clamp(e.q.limits(e.id), start)
	if end < start {
		return none, nil
	}
	if len(e.policy) > 0 {
		narrowed := make([][]*labels.Matcher, len(ms))
		for i := range ms {
			narrowed[i] = slices.Concat(ms[i], e.policy)
		}
		if ms = narrowed; len(ms) == 0 { // which would select all
			ms = [][]*labels.Matcher{e.policy}
		}
	}
	res, err := e.from.Select(start, end, ms...)
	if err != nil {
		return nil, e.refine(err)
	}
	if res == nil {
		return none, nil
	}
	return res, nil
}
