package ingester

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/grafana/dskit/services"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Push stores a tenant's request. When it returns without an error, all that
// it reports as stored is in the write-ahead log (of the operating system: it
// survives the process, and a crash of the machine as far as the disk's cache
// does); what the tenant's limits or its own order of samples forbid is
// reported as refused. On an error nothing may be assumed: the request can be
// sent again, as a sample that is stored already is not stored twice.
//
// r is only read, and not kept. If it has OnlyKeys, and they are not enough, the
// error is errUnnamed, and nothing of it is stored.
func (i *Ingester) Push(_ context.Context, id tenant.ID, r *wire.Request) (wire.Pushed, error) {
	if i.State() != services.Running {
		return wire.Pushed{}, errStopping()
	}
	if err := i.checkRoom(); err != nil {
		return wire.Pushed{}, i.storageError(id, err)
	}
	m, limits := i.member(id), i.limits(id)
	m.pushed.Store(time.Now().UnixMilli())
	if m.own.Load() == nil && (limits.OwnHead || i.horizon(limits) > i.horizon(i.limits(""))) {
		if err := i.placeAtOnce(m); err != nil {
			return wire.Pushed{}, i.storageError(id, err)
		}
	}
	m.meta.update(r.Metadata, limits, time.Now())

	a := appendings.Get().(*appending)
	defer a.release()
	a.begin(i, m, limits, r)
	if err := a.store(); errors.Is(err, errUnnamed) {
		return wire.Pushed{}, err
	} else if err != nil {
		return wire.Pushed{}, i.storageError(id, err)
	}
	i.count(&a.pushed)
	if a.lack != nil {
		return wire.Pushed{}, a.lack
	}
	a.pushed.Series = int(m.series.Load())
	return a.pushed, nil
}

// Needs implements distributor.Ingester.
func (i *Ingester) Needs(tenant.ID, wire.Version) wire.Names { return wire.Keys }

// horizon is how far behind its newest sample (ms) a head takes samples, for
// a tenant with these limits. A tenant that wants more than the pools give
// gets a head of its own.
func (i *Ingester) horizon(l *tenant.Limits) int64 {
	return max(outOfOrderHorizon, time.Duration(l.OutOfOrderWindow)).Milliseconds()
}

// placeAtOnce gives a tenant its own head for all times if nothing of it is in
// the pool yet, else from the next block border on.
func (i *Ingester) placeAtOnce(m *member) error {
	if m.series.Load() == 0 {
		return i.place(m, beginningOfTime)
	}
	return i.place(m, i.nextBorder(m))
}

// storageError turns a failure to append or commit into what the client sees:
// it may send the request again. The cause is for the log.
func (i *Ingester) storageError(id tenant.ID, err error) error {
	var ue *wire.UserError
	known := errors.As(err, &ue)
	if known && ue.ID != errStorage {
		return err
	}
	i.metrics.walErrors.Inc()
	if known { // whoever found it out has logged it
		return err
	}
	i.logger.Error("push could not be stored", "tenant", id, "err", err)
	ue = &wire.UserError{Kind: wire.Unavailable, ID: errStorage, Msg: "the request could not be stored, send it again", RetryAfter: 5 * time.Second}
	if isFull(err) {
		ue.Msg = "the disk for recent data is full, send the request again later"
		ue.RetryAfter = 30 * time.Second
	}
	return ue
}

func (i *Ingester) count(p *wire.Pushed) {
	i.metrics.samples.WithLabelValues("float").Add(float64(p.Samples))
	if p.Histograms > 0 {
		i.metrics.samples.WithLabelValues("histogram").Add(float64(p.Histograms))
	}
	if p.Exemplars > 0 {
		i.metrics.samples.WithLabelValues("exemplar").Add(float64(p.Exemplars))
	}
	for _, c := range p.Refused.Counts {
		i.metrics.refused.WithLabelValues(c.ID).Add(float64(c.Count))
	}
}

var appendings = sync.Pool{New: func() any { return new(appending) }}
