package storegateway

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
)

// A regular expression that names no values is tested on each value of its
// label, and there may be a hundred thousand of them where another matcher
// leaves a few series. Then it is tested on those.
const (
	manyValues = 1000 // of a label; fewer are tested at once
	worthwhile = 4    // times as many values as series
)

// divide parts matchers into those that the index answers, and those that are
// tested on the series that the first ones leave.
func (b *block) divide(ctx context.Context, ms []*labels.Matcher) (now, later []*labels.Matcher, err error) {
	most := 0
	values := make([]int, len(ms))
	for i, m := range ms {
		if lookedUp(m) {
			continue
		}
		if values[i], err = b.valuesOf(ctx, m.Name); err != nil {
			return nil, nil, err
		}
		most = max(most, values[i])
	}
	if most < manyValues {
		return ms, nil, nil
	}
	series, err := b.seriesOf(ctx, ms, most/worthwhile)
	if err != nil {
		return nil, nil, err
	}
	for i, m := range ms {
		if values[i] > worthwhile*series {
			later = append(later, m)
		} else {
			now = append(now, m)
		}
	}
	return now, later, nil
}

// lookedUp says that a matcher names the values that it wants, so that the others
// are of no interest.
func lookedUp(m *labels.Matcher) bool {
	return named(m) || m.Type == labels.MatchRegexp && len(m.SetMatches()) > 0 && !m.Matches("")
}

// named says that a matcher names the one value that it wants.
func named(m *labels.Matcher) bool { return m.Type == labels.MatchEqual && m.Value != "" }

// unlimited is hints without a limit where matchers are still to be tested on
// what it would leave.
func unlimited(h *storage.SelectHints, later []*labels.Matcher) *storage.SelectHints {
	if h == nil || h.Limit == 0 || len(later) == 0 {
		return h
	}
	c := *h
	c.Limit = 0
	return &c
}

// valuesOf is how many values a label has in the block.
func (b *block) valuesOf(ctx context.Context, name string) (int, error) {
	if n, ok := b.values.Load(name); ok {
		return n.(int), nil
	}
	ir, err := b.index.Index()
	if err != nil {
		return 0, err
	}
	defer ir.Close()
	all, err := ir.LabelValues(ctx, name, nil)
	if err != nil {
		return 0, err
	}
	if len(all) > 0 { // what a block does not have anybody can ask for
		b.values.Store(strings.Clone(name), len(all))
	}
	return len(all), nil
}

// seriesOf is how many series the most selective of the matchers that name a
// value leaves: as far as limit, from where on it is math.MaxInt32.
func (b *block) seriesOf(ctx context.Context, ms []*labels.Matcher, limit int) (least int, err error) {
	least = math.MaxInt32
	for _, m := range ms {
		if !named(m) {
			continue
		}
		n, err := b.countSeries(ctx, m, min(limit, least))
		if err != nil {
			return 0, err
		}
		least = min(least, n)
	}
	return least, nil
}

func (b *block) countSeries(ctx context.Context, m *labels.Matcher, limit int) (n int, err error) {
	ir, err := b.index.Index()
	if err != nil {
		return 0, err
	}
	defer ir.Close()
	p, err := ir.Postings(ctx, m.Name, m.Value)
	if err != nil {
		return 0, err
	}
	for p.Next() {
		if n++; n > limit {
			return math.MaxInt32, nil
		}
	}
	return n, p.Err()
}

// valuesBySeries answers for a label's values from the series that match, where
// these are few and the values many; ok says whether that is so.
func (r *blockReader) valuesBySeries(ctx context.Context, name string, ms []*labels.Matcher) (values []string, ok bool, err error) {
	if !slices.ContainsFunc(ms, named) {
		return nil, false, nil
	}
	all, err := r.block.valuesOf(ctx, name)
	if err != nil || all < manyValues {
		return nil, false, err
	}
	series, err := r.block.seriesOf(ctx, ms, all/worthwhile)
	if err != nil || all <= worthwhile*series {
		return nil, false, err
	}
	// As Prometheus, whatever the time of the series within the block.
	set := blockQuerier{r}.Select(ctx, true, &storage.SelectHints{Start: math.MinInt64, End: math.MaxInt64, Func: "series"}, ms...)
	for set.Next() {
		if v := set.At().Labels().Get(name); v != "" {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	return slices.Compact(values), true, set.Err()
}
