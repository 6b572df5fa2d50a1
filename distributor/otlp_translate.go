package distributor

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/hearth-metrics/hearth/wire"
)

// removeDeltas takes out what says how much something has changed. A series
// says how much it is: to add changes up, one process would have to see all of
// them in their order, which one of many cannot promise.
func removeDeltas(md pmetric.Metrics, refused *wire.Refusals) {
	for _, r := range md.ResourceMetrics().All() {
		for _, s := range r.ScopeMetrics().All() {
			s.Metrics().RemoveIf(func(m pmetric.Metric) bool {
				temporality, points := temporalityOf(m)
				if temporality != pmetric.AggregationTemporalityDelta {
					return false
				}
				refused.Add("err-otlp-delta", points, func() *wire.UserError {
					return wire.Errorf(wire.Invalid, "err-otlp-delta", "metric %.200q has delta temporality; send it cumulative: set the SDK's temporality preference, or use the collector's deltatocumulative processor", m.Name())
				})
				return true
			})
		}
	}
}

func temporalityOf(m pmetric.Metric) (pmetric.AggregationTemporality, int) {
	switch m.Type() {
	case pmetric.MetricTypeSum:
		return m.Sum().AggregationTemporality(), m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		return m.Histogram().AggregationTemporality(), m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().AggregationTemporality(), m.ExponentialHistogram().DataPoints().Len()
	default:
		return pmetric.AggregationTemporalityUnspecified, 0
	}
}

// translation makes a remote-write request of OTLP metrics: it is what
// Prometheus' converter appends to. Names become what they become in
// Prometheus.
type translation struct {
	lease *lease
	max   int

	request  prompb.WriteRequest
	size     int
	families map[string]bool // whose metadata is in the request
	err      error           // ends the translation
}

// targetInfoEvery is how far samples of target_info are apart at most: that of
// Prometheus.
const targetInfoEvery = 5 * time.Minute

// translate leaves out, and counts, what cannot be a series.
func (t *translation) translate(ctx context.Context, md pmetric.Metrics, refused *wire.Refusals) error {
	like := config.DefaultOTLPConfig
	converter := prometheusremotewrite.NewPrometheusConverter(t)
	_, err := converter.FromMetrics(ctx, md, prometheusremotewrite.Settings{
		AddMetricSuffixes:                    like.TranslationStrategy.ShouldAddSuffixes(),
		AllowUTF8:                            !like.TranslationStrategy.ShouldEscape(),
		PromoteResourceAttributes:            prometheusremotewrite.NewPromoteResourceAttributes(like),
		LookbackDelta:                        targetInfoEvery,
		LabelNameUnderscoreSanitization:      like.LabelNameUnderscoreSanitization,
		LabelNamePreserveMultipleUnderscores: like.LabelNamePreserveMultipleUnderscores,
	})
	switch {
	case t.err != nil:
		return t.err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	for _, err := range leaves(err) {
		refused.Add("err-otlp-metric", 1, func() *wire.UserError {
			return wire.Errorf(wire.Invalid, "err-otlp-metric", "a metric cannot be stored: %s", err)
		})
	}
	return nil
}

// leaves is the errors that were joined to one.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var all []error
	for _, err := range joined.Unwrap() {
		all = append(all, leaves(err)...)
	}
	return all
}

// Append implements storage.AppenderV2. One data point may be many series, each
// with all labels: what is made of a request is held to the size of one.
func (t *translation) Append(_ storage.SeriesRef, ls labels.Labels, _, at int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions) (storage.SeriesRef, error) { //nolint:revive // the interface has them
	if t.err != nil {
		return 0, t.err
	}
	ts := prompb.TimeSeries{Labels: prompb.FromLabels(ls, nil)}
	switch {
	case fh != nil:
		ts.Histograms = []prompb.Histogram{prompb.FromFloatHistogram(at, fh)}
	case h != nil:
		ts.Histograms = []prompb.Histogram{prompb.FromIntHistogram(at, h)}
	default:
		ts.Samples = []prompb.Sample{{Timestamp: at, Value: v}}
	}
	for _, e := range opts.Exemplars {
		ts.Exemplars = append(ts.Exemplars, prompb.Exemplar{Labels: prompb.FromLabels(e.Labels, nil), Value: e.Value, Timestamp: e.Ts})
	}
	if t.err = t.grow(ts.Size()); t.err != nil {
		return 0, t.err
	}
	t.request.Timeseries = append(t.request.Timeseries, ts)
	t.err = t.describe(opts)
	return 0, t.err
}

// describe adds the metadata of a metric, once.
func (t *translation) describe(opts storage.AOptions) error {
	if opts.MetricFamilyName == "" || t.families[opts.MetricFamilyName] {
		return nil
	}
	if t.families == nil {
		t.families = map[string]bool{}
	}
	t.families[opts.MetricFamilyName] = true
	m := prompb.MetricMetadata{
		Type: prompb.FromMetadataType(opts.Metadata.Type), MetricFamilyName: opts.MetricFamilyName,
		Help: opts.Metadata.Help, Unit: opts.Metadata.Unit,
	}
	t.request.Metadata = append(t.request.Metadata, m)
	return t.grow(m.Size())
}

// grow takes the memory for so many bytes more: as they are, encoded, and in
// snappy.
func (t *translation) grow(n int) error {
	if t.size += n; t.size > t.max {
		return wire.Errorf(wire.TooLarge, "err-request-too-large", "what becomes of the request is larger than %d bytes (distributor.max_request_bytes); send smaller requests", t.max)
	}
	return t.lease.take(3 * int64(n))
}

// Commit implements storage.AppenderTransaction.
func (*translation) Commit() error { return nil }

// Rollback implements storage.AppenderTransaction.
func (*translation) Rollback() error { return nil }
