package ingester

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// lifecycle counts the series of one TSDB by tenant and keeps the cache of
// references in step with it. The TSDB calls it while it creates and deletes
// series.
type lifecycle struct {
	i *Ingester
	h *head

	replaying atomic.Bool // limits do not apply to what was acknowledged before

	mu        sync.Mutex
	of        map[*member]int64
	tallies   map[*member]*tally // of tenants with limits that need them
	uncounted map[*member]bool   // whose tally is to be made anew
}

func newLifecycle(i *Ingester, h *head) *lifecycle {
	l := &lifecycle{i: i, h: h}
	l.clear()
	return l
}

// clear is called by newLifecycle, or under mu.
func (l *lifecycle) clear() {
	l.of, l.tallies, l.uncounted = map[*member]int64{}, map[*member]*tally{}, map[*member]bool{}
}

var _ tsdb.SeriesLifecycleCallback = &lifecycle{}

// PreCreation refuses a series that is over its tenant's limit, or for which
// there is no memory.
func (l *lifecycle) PreCreation(ls labels.Labels) error {
	if l.replaying.Load() {
		return nil
	}
	if err := l.i.checkMemory(); err != nil {
		return err
	}
	id := l.owner(ls)
	limits, m := l.i.limits(id), l.i.member(id)
	if err := l.checkSeries(m, limits.MaxSeries); err != nil || !tallied(limits) {
		return err
	}
	return l.admit(m, limits, ls)
}

func (l *lifecycle) checkSeries(m *member, limit int) error {
	if limit <= 0 {
		return nil
	}
	if n, most := m.series.Load(), l.i.localSeries(m.id, limit); n >= most {
		// What the tenant has in all follows from this ingester's part.
		return wire.Errorf(wire.Invalid, "err-max-series", "series limit reached: %d of %d (limit max_series); remove labels that vary, or ask for a higher limit", n*int64(limit)/most, limit)
	}
	return nil
}

// PostCreation counts a new series.
func (l *lifecycle) PostCreation(ls labels.Labels) { l.count(l.i.member(l.owner(ls)), ls, 1) }

// PostDeletion forgets series that are gone from memory.
func (l *lifecycle) PostDeletion(gone map[chunks.HeadSeriesRef]labels.Labels) {
	for ref, ls := range gone {
		id, own := l.h.owner(ls)
		l.count(l.i.member(id), ls, -1)
		l.h.refs.drop(wire.KeyOf(string(id), own), storage.SeriesRef(ref))
	}
}

func (l *lifecycle) owner(ls labels.Labels) tenant.ID {
	if l.h.pooled() {
		return tenant.ID(ls.Get(bucket.PoolLabel))
	}
	return l.h.tenant
}

func (l *lifecycle) count(m *member, ls labels.Labels, n int64) {
	m.series.Add(n)
	l.i.series.Add(n)
	l.i.metrics.series.WithLabelValues(l.h.kind()).Add(float64(n))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[m] == 0 {
		if limits := l.i.limits(m.id); tallied(limits) {
			l.tallies[m] = newTally(limits)
		}
	}
	if t := l.tallies[m]; t != nil {
		t.count(ls, n)
	}
	if l.of[m] += n; l.of[m] == 0 {
		delete(l.of, m)
		delete(l.tallies, m)
		delete(l.uncounted, m)
	}
}

// forget takes back what was counted, of a TSDB that is closed.
func (l *lifecycle) forget() {
	l.mu.Lock()
	left := l.of
	l.clear()
	l.mu.Unlock()
	for m, n := range left {
		m.series.Add(-n)
		l.i.series.Add(-n)
		l.i.metrics.series.WithLabelValues(l.h.kind()).Sub(float64(n))
	}
}
