package querier

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// tenantsAtOnce is how many tenants' data one query reads at the same time.
const tenantsAtOnce = 16

// reader reads as the tenants that each call's context names, by a session for
// each of them. One tenant is read as it is. The series of several get a label
// that tells whose they are; each tenant's part is under its own limits, and
// one that fails fails the query. S is a *sampleQuerier or a *chunkQuerier.
type reader[S storage.LabelQuerier] struct {
	q      *Querier
	begin  func(several bool) S
	series seriesCount // of all tenants together

	mu     sync.Mutex
	parts  map[tenant.ID]S
	ends   []context.CancelCauseFunc // of what Select has begun
	closed bool
}

// part is the session of a tenant.
func (r *reader[S]) part(id tenant.ID, several bool) S {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.parts[id]
	if !ok {
		s = r.begin(several)
		if r.closed {
			_ = s.Close() // it says so when it is asked for something
		}
		if r.parts == nil {
			r.parts = map[tenant.ID]S{}
		}
		r.parts[id] = s
	}
	return s
}

// Close closes all that was opened.
func (r *reader[S]) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, end := range r.ends {
		end(nil)
	}
	var errs []error
	for _, s := range r.parts {
		errs = append(errs, s.Close())
	}
	r.ends = nil
	return errors.Join(errs...)
}

// until is a context that Close ends: what was selected is read until then.
func (r *reader[S]) until(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends = append(r.ends, cancel)
	return ctx, cancel
}

// LabelValues implements storage.LabelQuerier. Values are good until Close.
func (r *reader[S]) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	who, err := r.q.whose(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !who.several {
		return r.part(who.ids[0], false).LabelValues(ctx, name, h, ms...)
	}
	ids, ms := split(who.ids, ms)
	read := func(ctx context.Context, id tenant.ID) (values []string, err error) {
		s := r.part(id, true)
		switch name {
		case tenant.Label: // of those that have such series
			if values, _, err = s.LabelNames(ctx, &storage.LabelHints{Limit: 1}, ms...); len(values) > 0 {
				values = []string{string(id)}
			}
		case tenant.OriginalLabel:
			values, _, err = s.LabelValues(ctx, tenant.Label, h, ms...)
		default:
			values, _, err = s.LabelValues(ctx, name, h, ms...)
		}
		return values, err
	}
	all, err := together(ctx, r, ids, read)
	slices.Sort(all)
	return slices.Compact(all), nil, err
}

// LabelNames implements storage.LabelQuerier.
func (r *reader[S]) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	who, err := r.q.whose(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !who.several {
		return r.part(who.ids[0], false).LabelNames(ctx, h, ms...)
	}
	ids, ms := split(who.ids, ms)
	all, err := together(ctx, r, ids, func(ctx context.Context, id tenant.ID) ([]string, error) {
		names, _, err := r.part(id, true).LabelNames(ctx, h, ms...)
		return names, err
	})
	if slices.Contains(all, tenant.Label) {
		all = append(all, tenant.OriginalLabel)
	}
	if len(all) > 0 {
		all = append(all, tenant.Label)
	}
	slices.Sort(all)
	return slices.Compact(all), nil, err
}

// split takes the matchers of tenant.Label out, which say whose series are
// selected, and leaves those that each tenant's own series are selected by.
func split(ids []tenant.ID, ms []*labels.Matcher) (those []tenant.ID, rest []*labels.Matcher) {
	those = slices.Clone(ids)
	for _, m := range ms {
		switch m.Name {
		case tenant.Label:
			those = slices.DeleteFunc(those, func(id tenant.ID) bool { return !m.Matches(string(id)) })
		case tenant.OriginalLabel:
			own := *m
			own.Name = tenant.Label
			rest = append(rest, &own)
		default:
			rest = append(rest, m)
		}
	}
	if len(ms) > 0 && len(rest) == 0 { // all series of these tenants
		rest = append(rest, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".*"))
	}
	return those, rest
}

// together reads several tenants at once, each as itself. What the first error
// leaves unread is given up.
func together[T any, S storage.LabelQuerier](ctx context.Context, r *reader[S], ids []tenant.ID, read func(context.Context, tenant.ID) ([]T, error)) ([]T, error) {
	until, cancel := r.until(ctx)
	all, err := each(until, cancel, ids, read)
	if err != nil {
		return nil, r.q.refineIn(ctx, owners{ids: ids}.name(), err)
	}
	return all, nil
}

func each[T any](ctx context.Context, cancel context.CancelCauseFunc, ids []tenant.ID, read func(context.Context, tenant.ID) ([]T, error)) ([]T, error) {
	answers := make([][]T, len(ids))
	var g errgroup.Group
	g.SetLimit(tenantsAtOnce)
	for i, id := range ids {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var err error
			if answers[i], err = read(tenant.WithID(ctx, id), id); err != nil {
				cancel(err)
				return context.Cause(ctx) // the first one, of which others are the consequence
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(answers...), nil
}

type sampleReader struct{ reader[*sampleQuerier] }

func (r *sampleReader) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	who, err := r.q.whose(ctx)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	if !who.several {
		return r.part(who.ids[0], false).Select(ctx, sorted, h, ms...)
	}
	return &lazy[storage.Series]{open: func() set[storage.Series] {
		all, err := selectEach(ctx, &r.reader, who, ms, func(ctx context.Context, s *sampleQuerier, ms []*labels.Matcher) set[storage.Series] {
			return s.Select(ctx, false, h, ms...)
		}, func(s storage.Series, l labels.Labels) storage.Series { return &labelledSeries{s, l} })
		if err != nil {
			return storage.ErrSeriesSet(err)
		}
		if sorted {
			sortByLabels(all)
		}
		return &list[storage.Series]{rest: all}
	}}
}

type chunkReader struct{ reader[*chunkQuerier] }

func (r *chunkReader) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	who, err := r.q.whose(ctx)
	if err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	if !who.several {
		return r.part(who.ids[0], false).Select(ctx, sorted, h, ms...)
	}
	return &lazy[storage.ChunkSeries]{open: func() set[storage.ChunkSeries] {
		all, err := selectEach(ctx, &r.reader, who, ms, func(ctx context.Context, s *chunkQuerier, ms []*labels.Matcher) set[storage.ChunkSeries] {
			return s.Select(ctx, false, h, ms...)
		}, func(s storage.ChunkSeries, l labels.Labels) storage.ChunkSeries { return &labelledChunks{s, l} })
		if err != nil {
			return storage.ErrChunkSeriesSet(err)
		}
		if sorted {
			sortByLabels(all)
		}
		return &list[storage.ChunkSeries]{rest: all}
	}}
}

// selectEach selects the series of each tenant and labels them. A tenant's
// series are read by one goroutine, and none of them runs when it returns.
func selectEach[E storage.Labels, S storage.LabelQuerier](
	ctx context.Context, r *reader[S], who owners, ms []*labels.Matcher,
	sel func(context.Context, S, []*labels.Matcher) set[E], label func(E, labels.Labels) E,
) ([]E, error) {
	ids, ms := split(who.ids, ms)
	return together(ctx, r, ids, func(ctx context.Context, id tenant.ID) ([]E, error) {
		var out []E
		b := labels.NewBuilder(labels.EmptyLabels())
		series := sel(ctx, r.part(id, true), ms)
		for series.Next() {
			if err := r.q.countSeries(who.limits, &r.series); err != nil {
				return nil, err
			}
			s := series.At()
			out = append(out, label(s, ofTenant(b, s.Labels(), id)))
		}
		return out, series.Err()
	})
}

// ofTenant is the labels of a series with whose it is.
func ofTenant(b *labels.Builder, l labels.Labels, id tenant.ID) labels.Labels {
	b.Reset(l)
	if own := l.Get(tenant.Label); own != "" {
		b.Set(tenant.OriginalLabel, own)
	}
	return b.Set(tenant.Label, string(id)).Labels()
}

// sortByLabels puts series in order: that in which each tenant's were is
// another one, now that they have a label more.
func sortByLabels[E storage.Labels](all []E) {
	slices.SortFunc(all, func(a, b E) int { return labels.Compare(a.Labels(), b.Labels()) })
}

type labelledSeries struct {
	storage.Series
	labels labels.Labels
}

// Labels implements storage.Labels.
func (s *labelledSeries) Labels() labels.Labels { return s.labels }

type labelledChunks struct {
	storage.ChunkSeries
	labels labels.Labels
}

// Labels implements storage.Labels.
func (s *labelledChunks) Labels() labels.Labels { return s.labels }

// exemplarsOfSeveral searches the exemplars of several tenants.
type exemplarsOfSeveral struct {
	ctx context.Context //nolint:containedctx // upstream's Select has none
	ids []tenant.ID
	of  func(ctx context.Context, id tenant.ID) (storage.ExemplarQuerier, error)
}

// Select implements storage.ExemplarQuerier.
func (e exemplarsOfSeveral) Select(start, end int64, ms ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	ctx, cancel := context.WithCancelCause(e.ctx)
	defer cancel(nil)
	all, err := each(ctx, cancel, e.ids, func(ctx context.Context, id tenant.ID) ([]exemplar.QueryResult, error) {
		own := setsOf(id, ms)
		if len(own) == 0 && len(ms) > 0 {
			return nil, nil
		}
		from, err := e.of(ctx, id)
		if err != nil {
			return nil, err
		}
		found, err := from.Select(start, end, own...)
		b := labels.NewBuilder(labels.EmptyLabels())
		for i := range found {
			found[i].SeriesLabels = ofTenant(b, found[i].SeriesLabels, id)
		}
		return found, err
	})
	slices.SortFunc(all, func(a, b exemplar.QueryResult) int { return labels.Compare(a.SeriesLabels, b.SeriesLabels) })
	return append([]exemplar.QueryResult{}, all...), err // not nil: the API's answer is [] then
}

// setsOf is the sets of matchers that select series of a tenant.
func setsOf(id tenant.ID, sets [][]*labels.Matcher) [][]*labels.Matcher {
	var own [][]*labels.Matcher
	for _, ms := range sets {
		if those, ms := split([]tenant.ID{id}, ms); len(those) > 0 {
			own = append(own, ms)
		}
	}
	return own
}

// blame names the tenant whose part of a query has failed.
func (q *Querier) blame(id tenant.ID, err error) error {
	var (
		ue   *wire.UserError
		ours promql.ErrStorage // which hides what is in it
	)
	if errors.As(err, &ours) {
		err = ours.Err
	}
	if !errors.As(err, &ue) {
		return err
	}
	return q.refine(id, ue.About("tenant "+string(id)))
}
