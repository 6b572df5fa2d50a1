package bucket

import (
	"context"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// PoolLabel is the hidden label that names the tenant of each series in pooled
// heads and blocks. It sorts before every other name, so that taking it off
// does not change the order of a tenant's series. Names that begin with its
// first byte are refused from clients.
const PoolLabel = "\x00tenant"

// PoolShard is the part, from 0 on, of n that a tenant's series are in where a
// compaction has split pooled blocks; their IndexBlock.CompactorShardID says
// "<part + 1>_of_<n>". Never change it: blocks in the bucket depend on it.
func PoolShard(tenant string, n int) int {
	return int(xxhash.Sum64String(tenant) % uint64(n))
}

// PoolLabels puts the hidden label in front of a tenant's labels, which are
// added to b in order of names by add.
func PoolLabels(b *labels.ScratchBuilder, tenant string, add func(*labels.ScratchBuilder)) labels.Labels {
	b.Reset()
	b.Add(PoolLabel, tenant)
	add(b)
	return b.Labels()
}

// SplitPoolLabels is the inverse of PoolLabels: the tenant and its labels, which
// share their memory with ls.
func SplitPoolLabels(ls labels.Labels) (tenant string, own labels.Labels) {
	return ls.Get(PoolLabel), ls.DropReserved(isPoolLabel)
}

func isPoolLabel(name string) bool { return name == PoolLabel }

// PoolQuerier restricts q, a querier over a pooled head or block, to one
// tenant, and takes the hidden label off what it returns. Closing it closes q.
//
// A tenant's series are found by the hidden label and by those matchers that
// name their values; all other matchers are tested on the few series left, so
// the work does not grow with the values that other tenants have.
func PoolQuerier(q storage.Querier, tenant string) storage.Querier {
	p := &poolQuerier{Querier: q, tenant: tenant}
	p.poolNames = poolNames{tenant, func(ctx context.Context, ms []*labels.Matcher) labeledSet {
		// Which blocks are asked is settled by the querier's own time range.
		hints := &storage.SelectHints{Start: math.MinInt64, End: math.MaxInt64, Func: "series"}
		return labeledSeries{q.Select(ctx, false, hints, ms...)}
	}}
	return p
}

// PoolChunkQuerier is PoolQuerier for chunks.
func PoolChunkQuerier(q storage.ChunkQuerier, tenant string) storage.ChunkQuerier {
	p := &poolChunkQuerier{ChunkQuerier: q, tenant: tenant}
	p.poolNames = poolNames{tenant, func(ctx context.Context, ms []*labels.Matcher) labeledSet {
		return labeledChunkSeries{q.Select(ctx, false, nil, ms...)}
	}}
	return p
}

type poolQuerier struct {
	storage.Querier
	poolNames

	tenant string
}

func (q *poolQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	down, rest, none := splitMatchers(q.tenant, ms)
	if none {
		return storage.EmptySeriesSet()
	}
	return &poolSeriesSet{SeriesSet: q.Querier.Select(ctx, sorted, unlimited(hints), down...), rest: rest}
}

func (q *poolQuerier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labelValues(ctx, name, hints, ms)
}

func (q *poolQuerier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labelNames(ctx, hints, ms)
}

type poolChunkQuerier struct {
	storage.ChunkQuerier
	poolNames

	tenant string
}

func (q *poolChunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	down, rest, none := splitMatchers(q.tenant, ms)
	if none {
		return storage.EmptyChunkSeriesSet()
	}
	return &poolChunkSeriesSet{ChunkSeriesSet: q.ChunkQuerier.Select(ctx, sorted, unlimited(hints), down...), rest: rest}
}

func (q *poolChunkQuerier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labelValues(ctx, name, hints, ms)
}

func (q *poolChunkQuerier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labelNames(ctx, hints, ms)
}

// unlimited drops a limit on the number of series: it would be applied before
// the remaining matchers are.
func unlimited(h *storage.SelectHints) *storage.SelectHints {
	if h == nil || h.Limit == 0 {
		return h
	}
	c := *h
	c.Limit = 0
	return &c
}

// splitMatchers divides the matchers into those that an index answers by
// looking up values (and the tenant's own), and the rest, to be tested series
// by series. A matcher on the hidden label sees a label that is not there;
// none says that such a matcher can match nothing.
func splitMatchers(tenant string, ms []*labels.Matcher) (down, rest []*labels.Matcher, none bool) {
	down = append(down, labels.MustNewMatcher(labels.MatchEqual, PoolLabel, tenant))
	for _, m := range ms {
		switch {
		case m.Name == PoolLabel:
			if !m.Matches("") {
				return nil, nil, true
			}
		case m.Type == labels.MatchEqual && m.Value != "",
			m.Type == labels.MatchRegexp && len(m.SetMatches()) > 0 && !m.Matches(""):
			down = append(down, m)
		default:
			rest = append(rest, m)
		}
	}
	return down, rest, false
}

// PoolMatchers restricts matchers to a tenant's series in a pool. It returns
// false where no series can match, as one of them asks for the hidden label.
func PoolMatchers(tenant string, ms []*labels.Matcher) ([]*labels.Matcher, bool) {
	down, rest, none := splitMatchers(tenant, ms)
	return append(down, rest...), !none
}

func matchAll(ls labels.Labels, ms []*labels.Matcher) bool {
	for _, m := range ms {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

type poolSeriesSet struct {
	storage.SeriesSet

	rest []*labels.Matcher
	at   *poolSeries
}

func (s *poolSeriesSet) Next() bool {
	for s.SeriesSet.Next() {
		series := s.SeriesSet.At()
		if ls := series.Labels(); matchAll(ls, s.rest) {
			_, own := SplitPoolLabels(ls)
			s.at = &poolSeries{series, own}
			return true
		}
	}
	return false
}

func (s *poolSeriesSet) At() storage.Series { return s.at }

type poolSeries struct {
	storage.SampleIterable

	labels labels.Labels
}

func (s *poolSeries) Labels() labels.Labels { return s.labels }

type poolChunkSeriesSet struct {
	storage.ChunkSeriesSet

	rest []*labels.Matcher
	at   *poolChunkSeries
}

func (s *poolChunkSeriesSet) Next() bool {
	for s.ChunkSeriesSet.Next() {
		series := s.ChunkSeriesSet.At()
		if ls := series.Labels(); matchAll(ls, s.rest) {
			_, own := SplitPoolLabels(ls)
			s.at = &poolChunkSeries{series, own}
			return true
		}
	}
	return false
}

func (s *poolChunkSeriesSet) At() storage.ChunkSeries { return s.at }

type poolChunkSeries struct {
	storage.ChunkSeries

	labels labels.Labels
}

func (s *poolChunkSeries) Labels() labels.Labels { return s.labels }

// poolNames answers for label names and values from the tenant's series, for
// both kinds of querier. It looks at the labels as they lie in the pool, which
// saves building each series' own.
type poolNames struct {
	tenant string
	pooled func(context.Context, []*labels.Matcher) labeledSet
}

type labeledSet interface {
	Next() bool
	labels() labels.Labels
	Err() error
	Warnings() annotations.Annotations
}

type labeledSeries struct{ storage.SeriesSet }

func (s labeledSeries) labels() labels.Labels { return s.At().Labels() }

type labeledChunkSeries struct{ storage.ChunkSeriesSet }

func (s labeledChunkSeries) labels() labels.Labels { return s.At().Labels() }

func (n poolNames) labelValues(ctx context.Context, name string, hints *storage.LabelHints, ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
	if name == PoolLabel {
		return nil, nil, nil
	}
	return n.collect(ctx, hints, ms, func(ls labels.Labels, add func(string)) {
		if v := ls.Get(name); v != "" {
			add(v)
		}
	})
}

func (n poolNames) labelNames(ctx context.Context, hints *storage.LabelHints, ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
	return n.collect(ctx, hints, ms, func(ls labels.Labels, add func(string)) {
		ls.Range(func(l labels.Label) {
			if l.Name != PoolLabel {
				add(l.Name)
			}
		})
	})
}

func (n poolNames) collect(ctx context.Context, hints *storage.LabelHints, ms []*labels.Matcher, each func(labels.Labels, func(string))) ([]string, annotations.Annotations, error) {
	down, rest, none := splitMatchers(n.tenant, ms)
	if none {
		return nil, nil, nil
	}
	seen := map[string]struct{}{}
	add := func(s string) { seen[s] = struct{}{} }
	set := n.pooled(ctx, down)
	for set.Next() {
		if ls := set.labels(); matchAll(ls, rest) {
			each(ls, add)
		}
	}
	if err := set.Err(); err != nil {
		return nil, nil, err
	}
	out := make([]string, 0, len(seen))
	for s := range seen {
		out = append(out, s)
	}
	slices.Sort(out)
	if hints != nil && hints.Limit > 0 && len(out) > hints.Limit {
		out = out[:hints.Limit]
	}
	return out, set.Warnings(), nil
}
