package distributor

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// dskit's gossip does not wait for connections that others still hold open.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/grafana/dskit/kv/memberlist.(*TCPTransport).handleConnection"))
}

// recorder keeps what reaches it as text, for a request's memory is on loan.
type recorder struct {
	got       []string
	without   []string // Request.Without, by request
	hist      []wire.Histogram
	families  []string // metrics that came with metadata
	exemplars []string // values of their labels
	answer    wire.Refusals
	err       error
}

func (r *recorder) Needs(tenant.ID, wire.Version) wire.Names { return wire.Keys }

func (r *recorder) Push(_ context.Context, id tenant.ID, req *wire.Request) (wire.Pushed, error) {
	if r.err != nil {
		return wire.Pushed{}, r.err
	}
	r.without = append(r.without, req.Without())
	var ls []wire.Label
	for i := range req.Series {
		ls = req.Labels(i, ls[:0])
		r.got = append(r.got, string(id)+" "+wire.SeriesString(ls))
	}
	r.hist = append(r.hist, req.Histograms...)
	for _, x := range req.Exemplars {
		for _, l := range req.ExemplarLabels[x.Labels.Lo:x.Labels.Hi] {
			r.exemplars = append(r.exemplars, strings.Clone(l.Value))
		}
	}
	for _, m := range req.Metadata {
		r.families = append(r.families, strings.Clone(m.Family))
	}
	return wire.Pushed{Samples: len(req.Samples), Histograms: len(req.Histograms), Exemplars: len(req.Exemplars), Refused: r.answer}, nil
}

type door struct {
	t      *testing.T
	cfg    Config
	limits tenant.LimitsConfig
	ing    recorder
	store  HAStore
	now    time.Time
	*Distributor
	server http.Handler
}

func newDoor(t *testing.T, change ...func(*door)) *door {
	d := &door{t: t, cfg: DefaultConfig(), limits: tenant.LimitsConfig{Defaults: tenant.DefaultLimits()}, now: time.Now()}
	for _, c := range change {
		c(d)
	}
	var err error
	d.Distributor, err = New(d.cfg, &d.ing, d.store, d.limits.Of, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	d.Distributor.now = func() time.Time { return d.now }
	d.ha.now = d.Distributor.now
	r := mux.NewRouter()
	d.RegisterRoutes(r)
	d.server = tenant.Middleware(r)
	return d
}

func (d *door) post(body []byte, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(body))
	r.Header.Set(tenant.Header, "t")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.server.ServeHTTP(w, r)
	return w
}

func (d *door) write(ts ...prompb.TimeSeries) *httptest.ResponseRecorder {
	b, err := (&prompb.WriteRequest{Timeseries: ts}).Marshal()
	require.NoError(d.t, err)
	return d.post(snappy.Encode(nil, b))
}

func (d *door) series(pairs ...string) prompb.TimeSeries {
	ts := prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: d.now.UnixMilli(), Value: 1}}}
	for i := 0; i < len(pairs); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	return ts
}

// A request with one bad series of each kind among good ones: the good ones
// are stored, the bad ones are counted, the first is explained.
func TestGoodPartIsStoredBadPartIsReported(t *testing.T) {
	for _, c := range []struct {
		id     string
		bad    func(d *door) prompb.TimeSeries
		limits func(*tenant.Limits)
	}{
		{id: "err-missing-metric-name", bad: func(d *door) prompb.TimeSeries { return d.series("job", "x") }},
		{id: "err-missing-metric-name", bad: func(d *door) prompb.TimeSeries { return d.series("__name__", "", "job", "x") }},
		{id: "err-duplicate-label-names", bad: func(d *door) prompb.TimeSeries { return d.series("__name__", "m", "a", "1", "a", "2") }},
		{id: "err-duplicate-label-names", bad: func(d *door) prompb.TimeSeries { return d.series("a", "1", "__name__", "m", "a", "1") }},
		{id: "err-label-invalid", bad: func(d *door) prompb.TimeSeries { return d.series("__name__", "m", "a", "\xff") }},
		{id: "err-label-invalid", bad: func(d *door) prompb.TimeSeries { return d.series("__name__", "m", "", "1") }},
		{id: "err-label-invalid", bad: func(d *door) prompb.TimeSeries { return d.series("\x00tenant", "other", "__name__", "m") }},
		{id: "err-label-invalid", bad: func(d *door) prompb.TimeSeries { return d.series("\x00anything", "other", "__name__", "m") }},
		{
			id: "err-max-label-names-per-series", bad: func(d *door) prompb.TimeSeries { return d.series("__name__", "m", "a", "1", "b", "2") },
			limits: func(l *tenant.Limits) { l.MaxLabelNamesPerSeries = 2 },
		},
		{id: "err-label-name-too-long", bad: func(d *door) prompb.TimeSeries { return d.series("__name__", "m", strings.Repeat("a", 1025), "1") }},
		{id: "err-label-value-too-long", bad: func(d *door) prompb.TimeSeries { return d.series("__name__", "m", "a", strings.Repeat("1", 2049)) }},
		{
			id: "err-labels-too-large", bad: func(d *door) prompb.TimeSeries { return d.series("__name__", "m", "a", strings.Repeat("1", 90)) },
			limits: func(l *tenant.Limits) { l.MaxLabelsSize = 80 },
		},
		{id: "err-too-far-in-future", bad: func(d *door) prompb.TimeSeries {
			s := d.series("__name__", "m")
			s.Samples[0].Timestamp += (10*time.Minute + time.Second).Milliseconds()
			return s
		}},
		{id: "err-too-far-in-past", bad: func(d *door) prompb.TimeSeries {
			s := d.series("__name__", "m")
			s.Samples[0].Timestamp -= time.Hour.Milliseconds() + 1
			return s
		}, limits: func(l *tenant.Limits) { l.PastGracePeriod = model.Duration(time.Hour) }},
		{id: "err-native-histogram-invalid", bad: func(d *door) prompb.TimeSeries {
			s := d.series("__name__", "m")
			h := tsdbutil.GenerateTestHistogram(1)
			h.Count = 1
			s.Samples, s.Histograms = nil, []prompb.Histogram{prompb.FromIntHistogram(d.now.UnixMilli(), h)}
			return s
		}},
		{id: "err-max-native-histogram-buckets", bad: func(d *door) prompb.TimeSeries {
			s := d.series("__name__", "m")
			s.Samples, s.Histograms = nil, []prompb.Histogram{prompb.FromIntHistogram(d.now.UnixMilli(), tsdbutil.GenerateTestCustomBucketsHistogram(1))}
			return s
		}, limits: func(l *tenant.Limits) { l.MaxHistogramBuckets = 2 }},
		{id: "err-exemplar-labels-too-long", bad: func(d *door) prompb.TimeSeries {
			s := d.series("__name__", "m")
			s.Samples, s.Exemplars = nil, []prompb.Exemplar{{Labels: []prompb.Label{{Name: "a", Value: strings.Repeat("x", 128)}}, Timestamp: d.now.UnixMilli()}}
			return s
		}},
		{id: "err-exemplar-timestamp-missing", bad: func(d *door) prompb.TimeSeries {
			s := d.series("__name__", "m")
			s.Samples, s.Exemplars = nil, []prompb.Exemplar{{Labels: []prompb.Label{{Name: "a", Value: "x"}}}}
			return s
		}},
	} {
		t.Run(c.id, func(t *testing.T) {
			d := newDoor(t, func(d *door) {
				if c.limits != nil {
					c.limits(&d.limits.Defaults)
				}
			})
			w := d.write(d.series("__name__", "first"), c.bad(d), c.bad(d), d.series("__name__", "last", "a", "1"))
			require.Equal(t, 400, w.Code)
			require.Contains(t, w.Body.String(), "("+c.id+")")
			require.Contains(t, w.Body.String(), "refused: 2 "+c.id+";")
			require.Equal(t, []string{"t first", `t last{a="1"}`}, d.ing.got)
		})
	}
}

func TestLabelsAreSortedAndEmptyOnesDropped(t *testing.T) {
	d := newDoor(t)
	require.Equal(t, 200, d.write(d.series("z", "1", "__name__", "m", "gone", "", "a", "2")).Code)
	require.Equal(t, []string{`t m{a="2", z="1"}`}, d.ing.got)
}

func TestBadSamplesLeaveTheirSeriesGoodOnes(t *testing.T) {
	d := newDoor(t)
	now := d.now.UnixMilli()
	s := d.series("__name__", "m")
	s.Samples = []prompb.Sample{{Timestamp: now}, {Timestamp: now + 1e9}, {Timestamp: now + 1}, {Timestamp: now + 2e9}}
	w := d.write(s, d.series("__name__", "n"))
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), "2 err-too-far-in-future")
	require.Equal(t, []string{"t m", "t n"}, d.ing.got)
}

func TestHistogramsWithTooManyBucketsLoseResolution(t *testing.T) {
	d := newDoor(t, func(d *door) { d.limits.Defaults.MaxHistogramBuckets = 6 })
	s := d.series("__name__", "m")
	h := tsdbutil.GenerateTestHistogram(5)
	s.Samples, s.Histograms = nil, []prompb.Histogram{prompb.FromIntHistogram(d.now.UnixMilli(), h), prompb.FromFloatHistogram(d.now.UnixMilli(), h.ToFloat(nil))}
	w := d.write(s)
	require.Equal(t, 200, w.Code, w.Body)
	require.Len(t, d.ing.hist, 2)
	for _, got := range d.ing.hist {
		fh := got.FH
		if fh == nil {
			require.NoError(t, got.H.Validate())
			fh = got.H.ToFloat(nil)
		}
		require.NoError(t, fh.Validate())
		require.Less(t, fh.Schema, h.Schema)
		require.LessOrEqual(t, len(fh.PositiveBuckets)+len(fh.NegativeBuckets), 6)
		require.InDelta(t, float64(h.Count), fh.Count, 0)
	}
}

func TestNegotiation(t *testing.T) {
	v1, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: "__name__", Value: "m"}}, Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli()}}}}}).Marshal()
	require.NoError(t, err)
	v2, err := (&writev2.Request{
		Symbols: []string{"", "__name__", "m", "bad"},
		Timeseries: []writev2.TimeSeries{
			{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Timestamp: time.Now().UnixMilli()}, {Timestamp: time.Now().UnixMilli() + 1}}},
		},
	}).Marshal()
	require.NoError(t, err)
	const v2Type = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
	for _, c := range []struct {
		name     string
		body     []byte
		headers  []string
		code     int
		contains string
	}{
		{"no headers", v1, nil, 200, ""},
		{"1.0", v1, []string{"Content-Type", "application/x-protobuf", "Content-Encoding", "snappy", "X-Prometheus-Remote-Write-Version", "0.1.0"}, 200, ""},
		{"1.0 named", v1, []string{"Content-Type", "application/x-protobuf;proto=prometheus.WriteRequest"}, 200, ""},
		{"2.0", v2, []string{"Content-Type", v2Type, "Content-Encoding", "snappy"}, 204, ""},
		{"2.0 spaced", v2, []string{"Content-Type", "application/x-protobuf; proto=io.prometheus.write.v2.Request"}, 204, ""},
		{"unknown message", v2, []string{"Content-Type", "application/x-protobuf;proto=x.Y"}, 415, "err-content-type"},
		{"json", v1, []string{"Content-Type", "application/json"}, 415, "err-content-type"},
		{"gzip", v1, []string{"Content-Encoding", "gzip"}, 415, "err-content-encoding"},
		{"2.0 as 1.0", v2, nil, 400, "err-malformed-request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDoor(t)
			w := d.post(snappy.Encode(nil, c.body), c.headers...)
			require.Equal(t, c.code, w.Code, w.Body)
			require.Contains(t, w.Body.String(), c.contains)
			if c.code == 204 {
				require.Equal(t, "2", w.Header().Get(samplesWritten))
				require.Equal(t, "0", w.Header().Get(histogramsWritten))
				require.Equal(t, "0", w.Header().Get(exemplarsWritten))
			}
		})
	}
}

func TestBrokenBodies(t *testing.T) {
	d := newDoor(t, func(d *door) { d.cfg.MaxRequestBytes = 4096 })
	big := make([]byte, 5000)
	for _, c := range []struct {
		name string
		body []byte
		code int
		id   string
	}{
		{"empty", nil, 400, "err-decompress"},
		{"not snappy", []byte("hello, world"), 400, "err-decompress"},
		{"not protobuf", snappy.Encode(nil, []byte("hello, world")), 400, "err-malformed-request"},
		{"too large compressed", bytes.Repeat([]byte{0xff}, 5000), 413, "err-request-too-large"},
		{"too large decompressed", snappy.Encode(nil, big), 413, "err-request-too-large"},
		{"bomb", snappy.Encode(nil, make([]byte, 50<<20))[:100], 413, "err-request-too-large"},
	} {
		w := d.post(c.body)
		require.Equal(t, c.code, w.Code, c.name)
		require.Contains(t, w.Body.String(), c.id, c.name)
	}
	require.Zero(t, d.inflight.total())
	require.Equal(t, 200, d.post(snappy.Encode(nil, nil)).Code, "an empty message is a message")
}

func TestNoTenant(t *testing.T) {
	d := newDoor(t)
	w := d.post(nil, tenant.Header, "")
	require.Equal(t, 401, w.Code)
	require.Contains(t, w.Body.String(), "no org id")
	require.Equal(t, 400, d.post(nil, tenant.Header, "a/b").Code)
	require.Equal(t, 400, d.post(nil, tenant.Header, "__hearth__").Code)
}

func TestRateLimit(t *testing.T) {
	d := newDoor(t, func(d *door) { d.limits.Defaults.IngestionRate = 2; d.limits.Defaults.IngestionBurst = 4 })
	four := func() *httptest.ResponseRecorder {
		return d.write(d.series("__name__", "a"), d.series("__name__", "b"), d.series("__name__", "c"), d.series("__name__", "d"))
	}
	require.Equal(t, 200, four().Code)
	w := four()
	require.Equal(t, 429, w.Code)
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), "2 samples/s reached (limit ingestion_rate)")
	require.Contains(t, w.Body.String(), "(err-ingestion-rate)")
	require.Len(t, d.ing.got, 4, "a limited request is refused whole")
	d.now = d.now.Add(2 * time.Second)
	require.Equal(t, 200, four().Code)
	w = d.write(d.series("__name__", "a"), d.series("__name__", "b"), d.series("__name__", "c"), d.series("__name__", "d"), d.series("__name__", "e"))
	require.Equal(t, 413, w.Code)
	require.Contains(t, w.Body.String(), "err-ingestion-burst")
}

// What is refused for itself is work as well, and so is what is very long.
func TestRateLimitOfWhatIsRefused(t *testing.T) {
	d := newDoor(t, func(d *door) { d.limits.Defaults.IngestionRate = 2; d.limits.Defaults.IngestionBurst = 4 })
	for what, ts := range map[string][]prompb.TimeSeries{
		"no names":     {d.series("a", "1"), d.series("a", "2"), d.series("a", "3")},
		"a long label": {d.series("__name__", "m", "long", strings.Repeat("x", 3*bytesOfASample))},
		"longer yet":   {d.series("__name__", "m", "long", strings.Repeat("x", 100*bytesOfASample))},
	} {
		d.now = d.now.Add(time.Minute)
		require.Equal(t, 400, d.write(ts...).Code, what)
		w := d.write(ts...)
		require.Equal(t, 429, w.Code, what)
		require.Contains(t, w.Body.String(), "(err-ingestion-rate)", what)
	}
}

func TestRateLimitOfBytes(t *testing.T) {
	d := newDoor(t, func(d *door) { d.limits.Defaults.IngestionBytesRate = 10; d.limits.Defaults.IngestionBytesBurst = 100 })
	require.Equal(t, 200, d.write(d.series("__name__", "a")).Code)
	var w *httptest.ResponseRecorder
	for range 100 {
		if w = d.write(d.series("__name__", "a")); w.Code != 200 {
			break
		}
	}
	require.Equal(t, 429, w.Code)
	require.Contains(t, w.Body.String(), "10 bytes/s reached (limit ingestion_bytes_rate)")
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	d.now = d.now.Add(time.Minute)
	w = d.write(d.series("__name__", strings.Repeat("a", 200)))
	require.Equal(t, 413, w.Code)
	require.Contains(t, w.Body.String(), "err-ingestion-bytes-burst")
}

// A tenant whose Prometheus drops what is answered 429 can have 503.
func TestRateLimitAnsweredAsTheTenantWants(t *testing.T) {
	d := newDoor(t, func(d *door) {
		d.limits.Defaults.IngestionRate, d.limits.Defaults.IngestionBurst, d.limits.Defaults.RateLimitStatus = 1, 1, 503
	})
	require.Equal(t, 200, d.write(d.series("__name__", "a")).Code)
	w := d.write(d.series("__name__", "a"))
	require.Equal(t, 503, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), "err-ingestion-rate")
}

func TestIngesterErrors(t *testing.T) {
	d := newDoor(t)
	d.ing.err = &wire.UserError{Kind: wire.Unavailable, ID: "err-x", Msg: "later", RetryAfter: 1500 * time.Millisecond}
	w := d.write(d.series("__name__", "m"))
	require.Equal(t, 503, w.Code)
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	d.ing.err = io.ErrClosedPipe
	w = d.write(d.series("__name__", "m"))
	require.Equal(t, 500, w.Code)
	require.NotContains(t, w.Body.String(), "pipe", "what is inside stays inside")
	d.ing.err = nil
	d.ing.answer.Add("err-max-series", 3, func() *wire.UserError { return wire.Errorf(wire.Invalid, "err-max-series", "full") })
	w = d.write(d.series("__name__", "m"), d.series("job", "m"))
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), "refused: 1 err-missing-metric-name, 3 err-max-series; the rest of the request is stored")
}
