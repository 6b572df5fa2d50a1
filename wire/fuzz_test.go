package wire

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

func FuzzWalkV1(f *testing.F) {
	for _, req := range requestsV1() {
		body, err := req.Marshal()
		require.NoError(f, err)
		f.Add(body)
	}
	for _, body := range trickyV1() {
		f.Add(body)
	}
	f.Fuzz(compareV1)
}

func FuzzWalkV2(f *testing.F) {
	for _, req := range requestsV2() {
		body, err := req.Marshal()
		require.NoError(f, err)
		f.Add(body)
	}
	for _, body := range trickyV2() {
		f.Add(body)
	}
	f.Fuzz(compareV2)
}

func compareV1(t *testing.T, body []byte) {
	var req prompb.WriteRequest
	if err := req.Unmarshal(body); err != nil {
		checkWalk(t, body, V1, "", err)
		return
	}
	checkWalk(t, body, V1, toldByV1(&req), nil)
}

func compareV2(t *testing.T, body []byte) {
	var req writev2.Request
	if err := req.Unmarshal(body); err != nil {
		checkWalk(t, body, V2, "", err)
		return
	}
	want, err := toldByV2(&req)
	checkWalk(t, body, V2, want, err)
}

// Messages with fields at random, mostly of the right type and well nested:
// they reach where random bytes seldom do.
func TestWalkRandomMessages(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	accepted := 0
	for range 20_000 {
		compareV1(t, randomMessage(rnd, &v1Request, v1Nested))
		body := randomMessage(rnd, &v2Request, v2Nested)
		if rnd.IntN(20) > 0 {
			body = append(symbols("__name__", "up", "a", "b", "\xff", ""), body...)
		}
		compareV2(t, body)
		var r Request
		if r.Walk(body, V2, "tenant", accept) == nil && len(r.Series) > 0 {
			accepted++
		}
	}
	require.Greater(t, accepted, 2000)
}

// The messages within messages, by message and field number.
var (
	v1Nested = map[*message]map[int]*message{
		&v1Request:   {1: &v1Series, 3: &v1Meta},
		&v1Series:    {1: &v1Label, 2: &v1Sample, 3: &v1Exemplar, 4: &v1Histogram},
		&v1Exemplar:  {1: &v1Label},
		&v1Histogram: {8: &bucketSpan, 11: &bucketSpan},
	}
	v2Nested = map[*message]map[int]*message{
		&v2Request:   {5: &v2Series},
		&v2Series:    {2: &v2Sample, 3: &v2Histogram, 4: &v2Exemplar, 5: &v2Meta},
		&v2Histogram: {8: &bucketSpan, 11: &bucketSpan},
	}
)

func randomMessage(rnd *rand.Rand, m *message, nested map[*message]map[int]*message) (body []byte) {
	for range rnd.IntN(6) {
		num := 1 + rnd.IntN(len(m.fields)-1)
		for m.fields[num].types == 0 && rnd.IntN(30) > 0 {
			num = 1 + rnd.IntN(len(m.fields)-1)
		}
		typ := rnd.IntN(6)
		for !m.of(uint64(num)<<3).has(uint64(typ)) && rnd.IntN(200) > 0 {
			typ = rnd.IntN(6)
		}
		n := protowire.Number(num)
		switch typ {
		case typeVarint:
			body = append(body, varint(n, rnd.Uint64()>>[]int{61, 62, 30, 0}[rnd.IntN(4)])...)
		case typeFixed64:
			body = append(body, fixed64(n, rnd.NormFloat64())...)
		case typeBytes:
			if within := nested[m][num]; within != nil {
				body = append(body, sub(n, randomMessage(rnd, within, nested))...)
			} else {
				body = append(body, str(n, []string{"", "", "a", "b", "\xff", "\x01\x02", "\x01\x04", "\x03\x04\x01\x02", "12345678", "__name__"}[rnd.IntN(10)])...)
			}
		case typeGroupStart:
			body = append(body, group...)
		case typeFixed32:
			body = append(body, byte(n<<3|5)&0x7f|0x80, byte(n>>4), 1, 2, 3, 4)
		}
	}
	return body
}

var (
	intHistogram = &histogram.Histogram{
		CounterResetHint: histogram.NotCounterReset, Schema: 3, ZeroThreshold: 1e-128, ZeroCount: 2, Count: 12, Sum: 18.4,
		PositiveSpans: []histogram.Span{{Offset: -2, Length: 2}, {Offset: 3, Length: 1}}, PositiveBuckets: []int64{1, 2, -1},
		NegativeSpans: []histogram.Span{{Offset: 0, Length: 2}}, NegativeBuckets: []int64{2, -1},
	}
	floatHistogram = &histogram.FloatHistogram{
		CounterResetHint: histogram.GaugeType, Schema: -4, ZeroThreshold: 0.5, ZeroCount: 2.5, Count: 7, Sum: math.Inf(1),
		PositiveSpans: []histogram.Span{{Offset: 1, Length: 1}}, PositiveBuckets: []float64{1.5},
		NegativeSpans: []histogram.Span{{Offset: 7, Length: 2}}, NegativeBuckets: []float64{2, 1},
	}
	customHistogram = &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema, Count: 6, Sum: 30, CustomValues: []float64{1, 2.5, 10},
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 4}}, PositiveBuckets: []int64{1, 1, -1, 1},
	}
	staleHistogram      = &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}
	staleFloatHistogram = &histogram.FloatHistogram{Sum: math.Float64frombits(value.StaleNaN)}
)

// requestsV1 are messages that together have every field.
func requestsV1() []prompb.WriteRequest {
	name := func(n string, more ...string) []prompb.Label {
		ls := []prompb.Label{{Name: "__name__", Value: n}}
		for i := 0; i < len(more); i += 2 {
			ls = append(ls, prompb.Label{Name: more[i], Value: more[i+1]})
		}
		return ls
	}
	stale := math.Float64frombits(value.StaleNaN)
	return []prompb.WriteRequest{
		{},
		{Timeseries: []prompb.TimeSeries{
			{Labels: name("up", "instance", "localhost:9090", "job", "prometheus"), Samples: []prompb.Sample{{Value: 1, Timestamp: 1_700_000_000_000}}},
			{Labels: name("gone", "z", "1", "a", "", "b", "ü"), Samples: []prompb.Sample{{Value: stale, Timestamp: -5}, {}}},
		}},
		{
			Timeseries: []prompb.TimeSeries{{
				Labels:    name("requests_total", "path", "/a"),
				Samples:   []prompb.Sample{{Value: 2.5, Timestamp: 1_700_000_000_001}},
				Exemplars: []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace_id", Value: "abc"}}, Value: 3, Timestamp: 1_700_000_000_000}, {Value: 1}},
			}},
			Metadata: []prompb.MetricMetadata{
				{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "requests_total", Help: "How many.", Unit: "requests"},
				{Type: prompb.MetricMetadata_STATESET, MetricFamilyName: "state"},
			},
		},
		{Timeseries: []prompb.TimeSeries{{Labels: name("latency"), Histograms: []prompb.Histogram{
			prompb.FromIntHistogram(1, intHistogram), prompb.FromFloatHistogram(2, floatHistogram),
		}}}},
		{Timeseries: []prompb.TimeSeries{{Labels: name("latency"), Histograms: []prompb.Histogram{
			prompb.FromIntHistogram(3, customHistogram), prompb.FromIntHistogram(4, staleHistogram), prompb.FromFloatHistogram(5, staleFloatHistogram),
		}}}},
	}
}

// requestsV2 are messages that together have every field.
func requestsV2() []writev2.Request {
	symbols := []string{"", "__name__", "up", "job", "prometheus", "latency_seconds_bucket", "How long.", "seconds", "trace_id", "abc", "ü"}
	stale := math.Float64frombits(value.StaleNaN)
	return []writev2.Request{
		{},
		{Symbols: symbols, Timeseries: []writev2.TimeSeries{
			{LabelsRefs: []uint32{1, 2, 3, 4}, Samples: []writev2.Sample{{Value: 1, Timestamp: 1_700_000_000_000, StartTimestamp: 7}}},
			{LabelsRefs: []uint32{3, 10, 1, 2, 8, 0}, Samples: []writev2.Sample{{Value: stale, Timestamp: -5}, {}}},
		}},
		{Symbols: symbols, Timeseries: []writev2.TimeSeries{
			{
				LabelsRefs: []uint32{1, 5},
				Samples:    []writev2.Sample{{Value: 2.5, Timestamp: 1_700_000_000_001}},
				Exemplars:  []writev2.Exemplar{{LabelsRefs: []uint32{8, 9}, Value: 3, Timestamp: 1_700_000_000_000}, {Value: 1}},
				Metadata:   writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_HISTOGRAM, HelpRef: 6, UnitRef: 7},
			},
			{LabelsRefs: []uint32{1, 5}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_HISTOGRAM, HelpRef: 6, UnitRef: 7}},
			{LabelsRefs: []uint32{1, 2}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE}},
		}},
		{Symbols: symbols, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 5}, Histograms: []writev2.Histogram{
			writev2.FromIntHistogram(9, 1, intHistogram), writev2.FromFloatHistogram(0, 2, floatHistogram),
		}}}},
		{Symbols: symbols, Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 5}, Histograms: []writev2.Histogram{
			writev2.FromIntHistogram(0, 3, customHistogram), writev2.FromIntHistogram(0, 4, staleHistogram), writev2.FromFloatHistogram(0, 5, staleFloatHistogram),
		}}}},
	}
}
