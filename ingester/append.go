package ingester

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// beginningOfTime is before every sample.
const beginningOfTime = math.MinInt64

// catchUpSlack is how far behind its tenant's newest sample a sample may be
// that its pooled head cannot take in order, because other tenants are ahead:
// the senders of a tenant that catches up run at different speeds, and the
// head no longer tells a sample that is late in its series from one that is
// late in the head only.
const catchUpSlack = time.Hour

// appending is one push on its way into one or two heads. It is pooled; begin
// starts it, commit or rollback ends it.
type appending struct {
	i       *Ingester
	m       *member
	limits  *tenant.Limits
	r       *wire.Request
	naming  bool  // holds m.naming, and so may name series
	newest  int64 // of the tenant, before this push
	maxT    int64 // of this push
	pool    target
	own     target
	pushed  wire.Pushed
	lack    error // of memory for new series; the rest of the push is stored
	labels  []wire.Label
	builder labels.ScratchBuilder
}

// target is one head with what this push appends to it.
type target struct {
	head      *head
	app       storage.AppenderV2  // nil: nothing appended yet
	refs      []storage.SeriesRef // of the request's series in this head, 0 where not known
	named     []int               // series whose references the head has told this push
	exemplars []pendingExemplar
}

type pendingExemplar struct {
	ref    storage.SeriesRef
	series labels.Labels // where ref is 0
	e      exemplar.Exemplar
}

func (a *appending) begin(i *Ingester, m *member, limits *tenant.Limits, r *wire.Request) {
	a.i, a.m, a.limits, a.r = i, m, limits, r
	a.newest, a.maxT = m.newest.Load(), math.MinInt64
	a.pushed = wire.Pushed{}
}

func (a *appending) release() {
	clear(a.labels)
	*a = appending{
		pool:    a.pool.emptied(),
		own:     a.own.emptied(),
		labels:  a.labels[:0],
		builder: a.builder,
	}
	appendings.Put(a)
}

func (tg *target) emptied() target {
	clear(tg.exemplars)
	return target{exemplars: tg.exemplars[:0], refs: tg.refs[:0], named: tg.named[:0]}
}

// errUnnamed ends a push that has to name a series and may not yet, or cannot as
// it has only keys.
var errUnnamed = errors.New("BUG: a push must hold the tenant's naming, and have labels, to name series")

// store appends and commits the whole request.
//
// The TSDB writes the record of a new series to its log with the commit of the
// push that created it. Another push that meets the series before that would
// log its samples in front of the record, where a replay drops them. So those
// pushes of a tenant that name series take turns, from before the first append
// to behind the commit, and only then others find the references. Whether a
// push is one of them shows when it has begun, so it begins anew. It takes its
// turn before it holds a head: waiting with one in hand, for a push that waits
// for exclusive, would be for ever.
func (a *appending) store() error {
	err := a.tryStore()
	if !errors.Is(err, errUnnamed) || a.r.OnlyKeys {
		return err
	}
	a.m.naming.Lock()
	defer a.m.naming.Unlock()
	a.pool, a.own = a.pool.emptied(), a.own.emptied()
	a.begin(a.i, a.m, a.limits, a.r)
	a.naming = true
	return a.tryStore()
}

func (a *appending) tryStore() error {
	for s := range a.r.Series {
		if err := a.series(s); err != nil {
			a.rollback()
			return err
		}
	}
	return a.commit()
}

// target opens the head that a sample of time t belongs to.
func (a *appending) target(t int64) (*target, error) {
	h, tg := a.m.headFor(t), &a.own
	if h == nil {
		if a.pool.app != nil {
			return &a.pool, nil
		}
		h, tg = a.i.poolOf(a.m.id), &a.pool
	}
	if tg.app != nil {
		return tg, nil
	}
	if h.hurt.Load() {
		return nil, errHurt()
	}
	h.appenders.RLock()
	if h.closed {
		h.appenders.RUnlock()
		return nil, errStopping()
	}
	tg.head, tg.app = h, h.db.AppenderV2(context.Background()) // a push is short, and half of one is no use
	tg.refs = h.refs.lookup(a.r.Series, tg.refs[:0])
	if !a.naming && slices.Contains(tg.refs, 0) {
		return nil, errUnnamed
	}
	return tg, nil
}

// series appends one series of the request. An error ends the whole push;
// refusals are counted and do not.
func (a *appending) series(n int) error {
	s := &a.r.Series[n]
	h := s.Histograms.Lo
	for k := s.Samples.Lo; k < s.Samples.Hi; k++ {
		sample := &a.r.Samples[k]
		// A series that has both is appended in order of time: the log has a
		// histogram behind a later float (a stale marker, mostly) as one that
		// comes too late.
		for ; h < s.Histograms.Hi && a.r.Histograms[h].T <= sample.T; h++ {
			if err := a.histogram(n, h); err != nil {
				return err
			}
		}
		stored, err := a.sample(n, sample.T, sample.V, nil, nil)
		if err != nil {
			return err
		}
		a.pushed.Samples += stored
	}
	for ; h < s.Histograms.Hi; h++ {
		if err := a.histogram(n, h); err != nil {
			return err
		}
	}
	for k := s.Exemplars.Lo; k < s.Exemplars.Hi; k++ {
		if err := a.exemplar(n, &a.r.Exemplars[k]); err != nil {
			return err
		}
	}
	return nil
}

// histogram appends histogram k of the request, which is of series n.
func (a *appending) histogram(n int, k uint32) error {
	sample := &a.r.Histograms[k]
	stored, err := a.sample(n, sample.T, 0, sample.H, sample.FH)
	a.pushed.Histograms += stored
	return err
}

var (
	inOrder  = storage.AOptions{RejectOutOfOrder: true}
	anyOrder = storage.AOptions{}
)

// sample appends one sample of series n and returns how many were stored: 1,
// or 0 if it was refused.
func (a *appending) sample(n int, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram) (int, error) {
	tg, err := a.target(t)
	if err != nil {
		return 0, err
	}
	err = a.appendTo(tg, n, t, v, h, fh, inOrder)
	if errors.Is(err, storage.ErrOutOfOrderSample) && a.inWindow(tg, t) {
		err = a.appendTo(tg, n, t, v, h, fh, anyOrder)
	}
	if err == nil {
		a.maxT = max(a.maxT, t)
		return 1, nil
	}
	return 0, a.refuse(n, t, err)
}

// appendTo appends by reference, or by labels if the head does not know the
// reference, or not any more: a cut forgets series at any time, also between two
// calls.
func (a *appending) appendTo(tg *target, n int, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AOptions) error {
	if ref := tg.refs[n]; ref != 0 {
		_, err := tg.app.Append(ref, labels.EmptyLabels(), 0, t, v, h, fh, o)
		if !errors.Is(err, tsdb.ErrInvalidSample) {
			return err
		}
	}
	if !a.naming {
		return errUnnamed
	}
	a.labels = a.r.Labels(n, a.labels[:0])
	ls := tg.head.labels(&a.builder, a.m.id, a.labels)
	ref, err := tg.app.Append(0, ls, 0, t, v, h, fh, o)
	if ref != 0 { // kept for the commit
		tg.refs[n] = ref
		tg.named = append(tg.named, n)
	}
	return err
}

// inWindow says whether a sample that its head can only take out of order is
// recent enough for the tenant.
func (a *appending) inWindow(tg *target, t int64) bool {
	if a.newest == math.MinInt64 {
		return true // nothing to compare with since the start
	}
	window := time.Duration(a.limits.OutOfOrderWindow)
	if border, ok := tg.head.db.Head().AppendableMinValidTime(); ok && t < border {
		window = max(window, catchUpSlack)
	}
	return t >= a.newest-window.Milliseconds()
}

// refuse counts a sample that cannot be stored. It returns an error only if
// the push as a whole cannot go on.
func (a *appending) refuse(n int, t int64, err error) error {
	if a.r.OnlyKeys {
		return errUnnamed // only with its labels can it be said what is refused
	}
	var ue *wire.UserError
	id := ""
	switch {
	case errors.As(err, &ue):
		switch {
		case ue.ID == errMemory:
			a.lack = ue
		case ue.Kind == wire.Unavailable:
			return err
		}
		a.pushed.Refused.Add(ue.ID, 1, func() *wire.UserError { return ue })
		return nil
	case errors.Is(err, storage.ErrOutOfOrderSample):
		id = "err-sample-out-of-order"
	case errors.Is(err, storage.ErrTooOldSample), errors.Is(err, storage.ErrOutOfBounds):
		id = "err-sample-timestamp-too-old"
	case errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		id = "err-sample-duplicate-timestamp"
	default:
		return err
	}
	a.pushed.Refused.Add(id, 1, func() *wire.UserError { return a.describe(id, n, t) })
	return nil
}

func (a *appending) describe(id string, n int, t int64) *wire.UserError {
	window := time.Duration(a.limits.OutOfOrderWindow)
	a.labels = a.r.Labels(n, a.labels[:0])
	at := fmt.Sprintf("at %s of series %s", time.UnixMilli(t).UTC().Format(time.RFC3339Nano), wire.SeriesString(a.labels))
	switch id {
	case "err-sample-out-of-order":
		return wire.Errorf(wire.Invalid, id, "sample %s comes out of order and is more than %s (limit out_of_order_window) behind the tenant's newest sample", at, window)
	case "err-sample-timestamp-too-old":
		return wire.Errorf(wire.Invalid, id, "sample %s is too old to be stored: it is more than %s behind recent data (limit out_of_order_window)", at, max(window, outOfOrderHorizon))
	default:
		return wire.Errorf(wire.Invalid, id, "sample %s has the timestamp of a stored sample but another value; give every series one sender", at)
	}
}

// exemplar keeps an exemplar for the commit. Exemplars are a best effort, as
// in Prometheus: one without a series is dropped.
func (a *appending) exemplar(n int, e *wire.Exemplar) error {
	tg, err := a.target(e.T)
	if err != nil {
		return err
	}
	p := pendingExemplar{ref: tg.refs[n]}
	if p.ref == 0 { // its samples came in another entry of the request, or before a restart
		a.labels = a.r.Labels(n, a.labels[:0])
		p.series = tg.head.labels(&a.builder, a.m.id, a.labels)
	}
	a.builder.Reset()
	for _, l := range a.r.ExemplarLabels[e.Labels.Lo:e.Labels.Hi] {
		a.builder.Add(l.Name, l.Value)
	}
	a.builder.Sort()
	p.e = exemplar.Exemplar{Labels: a.builder.Labels(), Value: e.V, Ts: e.T, HasTs: true}
	tg.exemplars = append(tg.exemplars, p)
	return nil
}

// commit makes everything durable and visible. If it fails, some of the push
// may be stored and some not; sending it again completes it.
func (a *appending) commit() error {
	err := errors.Join(a.end(&a.pool, true), a.end(&a.own, true))
	if err == nil && a.maxT > math.MinInt64 {
		a.m.sawNewest(a.maxT)
	}
	return err
}

func (a *appending) rollback() {
	_ = a.end(&a.pool, false)
	_ = a.end(&a.own, false)
}

func (a *appending) end(tg *target, commit bool) error {
	if tg.app == nil {
		return nil
	}
	defer tg.head.appenders.RUnlock()
	app := tg.app
	tg.app = nil
	err := a.finish(tg, app, commit)
	return errors.Join(err, a.i.checkLogs(tg.head)) // a rollback writes too
}

func (a *appending) finish(tg *target, app storage.AppenderV2, commit bool) error {
	if !commit {
		return app.Rollback()
	}
	if err := app.Commit(); err != nil {
		return err
	}
	for _, n := range tg.named {
		tg.head.refs.put(a.r.Series[n].Key, tg.refs[n])
	}
	tg.head.appended.Store(a.m.pushed.Load())
	return a.commitExemplars(tg)
}

// commitExemplars stores the exemplars behind the samples, so that they find
// their series. One that is out of order or a repetition is left out.
func (a *appending) commitExemplars(tg *target) error {
	if len(tg.exemplars) == 0 {
		return nil
	}
	app := tg.head.db.Appender(context.Background())
	for _, p := range tg.exemplars {
		if _, err := app.AppendExemplar(p.ref, p.series, p.e); err == nil { // one that is there already is as good as stored
			a.pushed.Exemplars++
		}
	}
	return app.Commit()
}
