package ingester

import (
	"context"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// tally counts the series of one tenant in one head by metric and by label set.
// Only tenants with such limits have one: the others pay nothing.
//
// A tally is exact: it begins with the tenant's first series in the head, or,
// where a limit comes later, with a count of all series while none is made.
type tally struct {
	byMetric map[string]int64 // nil: not counted
	sets     []tenant.LabelSet
	inSet    []int64 // by index of sets
}

// tallied says whether a tenant's series are counted by more than their number.
func tallied(l *tenant.Limits) bool { return l.MaxSeriesPerMetric > 0 || len(l.LabelSets) > 0 }

func newTally(l *tenant.Limits) *tally {
	t := &tally{sets: l.LabelSets, inSet: make([]int64, len(l.LabelSets))}
	if l.MaxSeriesPerMetric > 0 {
		t.byMetric = map[string]int64{}
	}
	return t
}

// serves says whether a tally counts all that the limits are about.
func (t *tally) serves(l *tenant.Limits) bool {
	return (l.MaxSeriesPerMetric <= 0 || t.byMetric != nil) && slices.EqualFunc(t.sets, l.LabelSets, tenant.LabelSet.Same)
}

func (t *tally) count(ls labels.Labels, n int64) {
	if t.byMetric != nil {
		name := ls.Get(model.MetricNameLabel)
		switch now := t.byMetric[name] + n; now {
		case 0:
			delete(t.byMetric, name)
		case n: // new: the name is a part of the labels, which go with the series
			t.byMetric[strings.Clone(name)] = now
		default:
			t.byMetric[name] = now
		}
	}
	for i := range t.sets {
		if isIn(ls, &t.sets[i]) {
			t.inSet[i] += n
		}
	}
}

func isIn(ls labels.Labels, s *tenant.LabelSet) bool {
	for name, value := range s.LabelSet {
		if ls.Get(name) != value {
			return false
		}
	}
	return true
}

// admit refuses a series that is over a limit. part is what this ingester has
// of one.
func (t *tally) admit(ls labels.Labels, l *tenant.Limits, part func(limit int) int64) error {
	if most := l.MaxSeriesPerMetric; most > 0 {
		name := ls.Get(model.MetricNameLabel)
		if n, here := t.byMetric[name], part(most); n >= here {
			return wire.Errorf(wire.Invalid, "err-max-series-per-metric", "series limit of metric %.200q reached: %d of %d (limit max_series_per_metric); remove labels that vary, or ask for a higher limit", name, n*int64(most)/here, most)
		}
	}
	for i, s := range l.LabelSets {
		most := s.Limits.MaxSeries
		if n, here := t.inSet[i], part(most); n >= here && isIn(ls, &s) {
			return wire.Errorf(wire.Invalid, "err-max-series-per-label-set", "series limit of %.500s reached: %d of %d (limit limits_per_label_set); remove labels that vary, or ask for a higher limit", s, n*int64(most)/here, most)
		}
	}
	return nil
}

// admit refuses a series that is over one of the limits that a tally is for. If
// what is there is not counted yet, it lets the series pass and has it counted,
// which takes a second.
func (l *lifecycle) admit(m *member, limits *tenant.Limits, ls labels.Labels) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tallies[m]
	switch {
	case t != nil && t.serves(limits):
		return t.admit(ls, limits, func(limit int) int64 { return l.i.localSeries(m.id, limit) })
	case t != nil || l.of[m] > 0:
		l.uncounted[m] = true
	}
	return nil // of the first series count makes a tally
}

// countAnew makes the tallies that are missing in a head, and drops those that
// nobody needs any more.
func (i *Ingester) countAnew(ctx context.Context, h *head) error {
	h.cutting.Lock() // no series is deleted meanwhile, nor is the TSDB another
	defer h.cutting.Unlock()
	if h.mended.shut || !h.counts.outdated() {
		return nil
	}
	return i.exclusive(h, func() error { // no series is made
		if h.closed {
			return nil
		}
		for m := range h.counts.takeUncounted() {
			t := newTally(i.limits(m.id))
			if err := h.eachSeries(ctx, m.id, func(ls labels.Labels) { t.count(ls, 1) }); err != nil {
				return err
			}
			h.counts.setTally(m, t)
		}
		return nil
	})
}

// outdated drops tallies without a limit, and says whether some are missing.
func (l *lifecycle) outdated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for m := range l.tallies {
		if !tallied(l.i.limits(m.id)) {
			delete(l.tallies, m)
		}
	}
	return len(l.uncounted) > 0
}

func (l *lifecycle) takeUncounted() map[*member]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.uncounted
	l.uncounted = map[*member]bool{}
	return out
}

func (l *lifecycle) setTally(m *member, t *tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tallies[m] = t
}

// eachSeries yields the labels of a tenant's series in memory. The labels are
// those that callbacks of the TSDB get.
func (h *head) eachSeries(ctx context.Context, id tenant.ID, yield func(labels.Labels)) error {
	r, err := h.db.Head().Index()
	if err != nil {
		return err
	}
	defer r.Close()
	name, value := "", "" // all there are
	if h.pooled() {
		name, value = bucket.PoolLabel, string(id)
	}
	p, err := r.Postings(ctx, name, value)
	if err != nil {
		return err
	}
	var b labels.ScratchBuilder
	for p.Next() {
		if err := r.Series(p.At(), &b, nil); err != nil {
			return err
		}
		yield(b.Labels())
	}
	return p.Err()
}

// countAllAnew is countAnew of all heads.
func (i *Ingester) countAllAnew(ctx context.Context) {
	for _, h := range i.heads() {
		if err := i.countAnew(ctx, h); err != nil {
			i.logger.Error("series not counted for a limit, will retry", "head", h.name, "err", err)
		}
	}
}

// EachLabelSet yields how many active series each label set with a limit has
// here. A tenant that is about to move has the same series in two heads: then
// it is the larger number.
func (i *Ingester) EachLabelSet(yield func(id tenant.ID, set string, series int)) {
	type key struct {
		id  tenant.ID
		set string
	}
	all := map[key]int64{}
	for _, h := range i.heads() {
		if !h.users.TryAcquire(1) { // it is opened anew
			continue
		}
		l := h.counts
		l.mu.Lock()
		for m, t := range l.tallies {
			for n, s := range t.sets {
				k := key{m.id, s.String()}
				all[k] = max(all[k], t.inSet[n])
			}
		}
		l.mu.Unlock()
		h.users.Release(1)
	}
	for k, n := range all {
		yield(k.id, k.set, int(n))
	}
}
