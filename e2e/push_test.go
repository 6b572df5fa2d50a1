package e2e

import (
	"math"
	"net/http"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// point is a sample: a float unless one of the histograms is set.
type point struct {
	t  int64 // ms
	v  float64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

func isHistogram(p point) bool { return p.h != nil || p.fh != nil }

// series is what a sender has to say of one series.
type series struct {
	labels    labels.Labels
	points    []point
	exemplars []exemplar.Exemplar
	meta      *metadata.Metadata
}

// protocol is how a sender writes.
type protocol struct {
	name    string
	encode  func([]series) ([]byte, error)
	header  http.Header
	success int
}

var protocols = []*protocol{remoteWrite1, remoteWrite2}

var remoteWrite1 = &protocol{
	name:    "remote write 1.0",
	encode:  encodeV1,
	success: http.StatusOK,
	header: http.Header{
		"Content-Type":                      {"application/x-protobuf"},
		"Content-Encoding":                  {"snappy"},
		"X-Prometheus-Remote-Write-Version": {"0.1.0"},
	},
}

var remoteWrite2 = &protocol{
	name:    "remote write 2.0",
	encode:  encodeV2,
	success: http.StatusNoContent,
	header: http.Header{
		"Content-Type":                      {"application/x-protobuf;proto=io.prometheus.write.v2.Request"},
		"Content-Encoding":                  {"snappy"},
		"X-Prometheus-Remote-Write-Version": {"2.0.0"},
	},
}

func encodeV1(list []series) ([]byte, error) {
	req := &prompb.WriteRequest{}
	for _, s := range list {
		ts := prompb.TimeSeries{Labels: prompb.FromLabels(s.labels, nil)}
		for _, p := range s.points {
			switch {
			case p.h != nil:
				ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(p.t, p.h))
			case p.fh != nil:
				ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(p.t, p.fh))
			default:
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: p.t, Value: p.v})
			}
		}
		for _, e := range s.exemplars {
			ts.Exemplars = append(ts.Exemplars, prompb.Exemplar{Labels: prompb.FromLabels(e.Labels, nil), Value: e.Value, Timestamp: e.Ts})
		}
		if s.meta != nil {
			req.Metadata = append(req.Metadata, prompb.MetricMetadata{
				Type:             prompb.FromMetadataType(s.meta.Type),
				MetricFamilyName: s.labels.Get(model.MetricNameLabel),
				Help:             s.meta.Help,
				Unit:             s.meta.Unit,
			})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	body, err := req.Marshal()
	return snappy.Encode(nil, body), err
}

func encodeV2(list []series) ([]byte, error) {
	symbols, req := writev2.NewSymbolTable(), &writev2.Request{}
	for _, s := range list {
		ts := writev2.TimeSeries{LabelsRefs: symbols.SymbolizeLabels(s.labels, nil)}
		for _, p := range s.points {
			switch {
			case p.h != nil:
				ts.Histograms = append(ts.Histograms, writev2.FromIntHistogram(0, p.t, p.h))
			case p.fh != nil:
				ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(0, p.t, p.fh))
			default:
				ts.Samples = append(ts.Samples, writev2.Sample{Timestamp: p.t, Value: p.v})
			}
		}
		for _, e := range s.exemplars {
			ts.Exemplars = append(ts.Exemplars, writev2.Exemplar{LabelsRefs: symbols.SymbolizeLabels(e.Labels, nil), Value: e.Value, Timestamp: e.Ts})
		}
		if s.meta != nil {
			ts.Metadata = writev2.Metadata{Type: writev2.FromMetadataType(s.meta.Type), HelpRef: symbols.Symbolize(s.meta.Help), UnitRef: symbols.Symbolize(s.meta.Unit)}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	req.Symbols = symbols.Symbols()
	body, err := req.Marshal()
	return snappy.Encode(nil, body), err
}

// send pushes and returns what became of it. An error means that there was no
// answer.
func (h *hearth) send(p *protocol, tenant string, list ...series) (status int, answer string, err error) {
	body, err := p.encode(list)
	if err != nil {
		return 0, "", err
	}
	return h.do(http.MethodPost, "/api/v1/push", tenant, p.header, body)
}

// push sends what must be stored whole.
func (h *hearth) push(p *protocol, tenant string, list ...series) {
	h.t.Helper()
	status, answer, err := h.send(p, tenant, list...)
	if err != nil || status != p.success {
		h.t.Fatalf("push as %s by %s: %d %s %v", tenant, p.name, status, answer, err)
	}
}

// stale is the value that ends a series.
var stale = math.Float64frombits(value.StaleNaN)

// floats is a series of floats, one every step from start on (ms).
func floats(ls labels.Labels, start, step int64, values ...float64) series {
	s := series{labels: ls}
	for i, v := range values {
		s.points = append(s.points, point{t: start + int64(i)*step, v: v})
	}
	return s
}

// seriesLabels is a series' labels, as PromQL writes them.
func seriesLabels(t testing.TB, text string) labels.Labels {
	t.Helper()
	ls, err := promParser.ParseMetric(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return ls
}

// exponential is a native histogram whose counts follow from n; with n it grows
// as that of a counter does.
func exponential(n int64) *histogram.Histogram {
	return &histogram.Histogram{
		Schema: 1, ZeroThreshold: 0.001, ZeroCount: uint64(n),
		Count: uint64(9*n + 10), Sum: 18.5 * float64(n+1),
		PositiveSpans:   []histogram.Span{{Offset: 0, Length: 2}, {Offset: 1, Length: 2}},
		PositiveBuckets: []int64{n + 1, 1, -1, 0},
		NegativeSpans:   []histogram.Span{{Offset: 0, Length: 2}, {Offset: 1, Length: 2}},
		NegativeBuckets: []int64{n + 1, 1, -1, 0},
	}
}

// customBuckets is a native histogram with borders of its own.
func customBuckets(n int64) *histogram.Histogram {
	return &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema,
		Count:  uint64(3*n + 6), Sum: 2.25 * float64(n+1),
		CustomValues:    []float64{0.5, 1, 2.5},
		PositiveSpans:   []histogram.Span{{Offset: 0, Length: 3}},
		PositiveBuckets: []int64{n + 1, 1, 1},
	}
}
