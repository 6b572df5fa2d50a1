package ruler

import (
	"context"
	"errors"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// query evaluates what Prometheus' package asks for: the expression of a rule.
// For an alert its templates are filled in at once.
func (g *runner) query(ctx context.Context, expr string, at time.Time) (promql.Vector, error) {
	e := evaluationOf(ctx)
	if v, ok := e.filledIn(expr); ok {
		return v, nil
	}
	v, err := g.ask(ctx, expr, at)
	if err != nil {
		return nil, err
	}
	return g.fillIn(ctx, e, v)
}

// ask evaluates an expression of a rule, or of a template, over the tenant's
// data, or that of the tenants which the group names. It waits for its turn: a tenant's queries do not take all that may run.
func (g *runner) ask(ctx context.Context, expr string, at time.Time) (promql.Vector, error) {
	if def := g.want.Load(); len(def.SourceTenants) > 0 {
		ids, err := g.r.sources(g.id, def)
		if err != nil {
			g.r.metrics.evaluations.WithLabelValues("failure").Inc()
			return nil, err
		}
		ctx = tenant.WithIDs(ctx, ids)
	}
	for _, slots := range []chan struct{}{g.slots, g.r.slots} {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	v, err := rules.EngineQueryFunc(g.r.Engine, g.r.Data)(ctx, expr, at)
	g.r.Evaluated(g.id)
	switch {
	case err == nil:
		g.r.metrics.evaluations.WithLabelValues("success").Inc()
	case isUnavailable(err):
		g.unavailable.Store(true)
		g.r.metrics.evaluations.WithLabelValues("unavailable").Inc()
	default:
		g.r.metrics.evaluations.WithLabelValues("failure").Inc()
	}
	return v, err
}

// isUnavailable says whether data could not be read, so that the same query may
// well succeed later.
func isUnavailable(err error) bool {
	var (
		ue      *wire.UserError
		failed  promql.ErrStorage
		timeout promql.ErrQueryTimeout
	)
	switch {
	case err == nil:
		return false
	case errors.As(err, &ue):
		return ue.Kind == wire.Unavailable || ue.Kind == wire.Internal
	default:
		return errors.As(err, &failed) || errors.As(err, &timeout) || errors.Is(err, context.DeadlineExceeded)
	}
}

// appendable writes what a group's rules record.
type appendable struct{ g *runner }

// Appender implements storage.Appendable.
func (a appendable) Appender(ctx context.Context) storage.Appender {
	return &appender{ctx: ctx, g: a.g}
}

// appender collects one write request. Prometheus' interface wants the context
// kept from the beginning to the commit.
type appender struct {
	ctx     context.Context
	g       *runner
	request prompb.WriteRequest
}

var _ storage.Appender = (*appender)(nil)

// Append implements storage.Appender.
func (a *appender) Append(_ storage.SeriesRef, ls labels.Labels, t int64, v float64) (storage.SeriesRef, error) {
	a.request.Timeseries = append(a.request.Timeseries, prompb.TimeSeries{
		Labels:  prompb.FromLabels(withoutTemplates(ls), nil),
		Samples: []prompb.Sample{{Timestamp: t, Value: v}},
	})
	return 0, nil
}

// AppendHistogram implements storage.Appender.
func (a *appender) AppendHistogram(_ storage.SeriesRef, ls labels.Labels, t int64, h *histogram.Histogram, fh *histogram.FloatHistogram) (storage.SeriesRef, error) {
	var encoded prompb.Histogram
	if fh != nil {
		encoded = prompb.FromFloatHistogram(t, fh)
	} else {
		encoded = prompb.FromIntHistogram(t, h)
	}
	a.request.Timeseries = append(a.request.Timeseries, prompb.TimeSeries{
		Labels:     prompb.FromLabels(ls, nil),
		Histograms: []prompb.Histogram{encoded},
	})
	return 0, nil
}

// Commit implements storage.Appender.
func (a *appender) Commit() error {
	if len(a.request.Timeseries) == 0 {
		return nil
	}
	id, err := tenant.FromContext(a.ctx)
	if err != nil {
		return err
	}
	body, err := a.request.Marshal()
	if err != nil {
		return err
	}
	pushed, err := a.g.r.Writes.Append(a.ctx, id, snappy.Encode(nil, body))
	if err == nil && pushed.Refused.First != nil {
		return pushed.Refused.First
	}
	return err
}

// Rollback implements storage.Appender.
func (a *appender) Rollback() error {
	a.request.Reset()
	return nil
}

// SetOptions implements storage.Appender. What is out of order is the
// ingester's to judge.
func (*appender) SetOptions(*storage.AppendOptions) {}

// AppendExemplar implements storage.Appender. Rules have none.
func (*appender) AppendExemplar(storage.SeriesRef, labels.Labels, exemplar.Exemplar) (storage.SeriesRef, error) {
	return 0, nil
}

// UpdateMetadata implements storage.Appender. Rules have none.
func (*appender) UpdateMetadata(storage.SeriesRef, labels.Labels, metadata.Metadata) (storage.SeriesRef, error) {
	return 0, nil
}

// AppendSTZeroSample implements storage.Appender. Rules have none.
func (*appender) AppendSTZeroSample(storage.SeriesRef, labels.Labels, int64, int64) (storage.SeriesRef, error) {
	return 0, nil
}

// AppendHistogramSTZeroSample implements storage.Appender. Rules have none.
func (*appender) AppendHistogramSTZeroSample(storage.SeriesRef, labels.Labels, int64, int64, *histogram.Histogram, *histogram.FloatHistogram) (storage.SeriesRef, error) {
	return 0, nil
}
