package distributor

import (
	"bytes"
	"compress/gzip"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// otlp sends metrics to a path.
func (d *door) otlp(path string, body []byte, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set(tenant.Header, "t")
	r.Header.Set("Content-Type", mediaType)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.server.ServeHTTP(w, r)
	return w
}

func otlpProto(t *testing.T, md pmetric.Metrics) []byte {
	t.Helper()
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	return b
}

// otlpMetrics has one metric of each kind.
func otlpMetrics(at time.Time) (pmetric.Metrics, pmetric.MetricSlice) {
	md := pmetric.NewMetrics()
	r := md.ResourceMetrics().AppendEmpty()
	r.Resource().Attributes().PutStr("service.name", "shop")
	r.Resource().Attributes().PutStr("service.instance.id", "one")
	r.Resource().Attributes().PutStr("deployment.environment", "prod")
	all := r.ScopeMetrics().AppendEmpty().Metrics()
	ts := pcommon.NewTimestampFromTime(at)
	add := func(name, unit string) pmetric.Metric {
		m := all.AppendEmpty()
		m.SetName(name)
		m.SetUnit(unit)
		m.SetDescription("help of " + name)
		return m
	}
	number := func(p pmetric.NumberDataPoint, v float64) {
		p.SetTimestamp(ts)
		p.SetDoubleValue(v)
		p.Attributes().PutStr("http.method", "GET")
	}
	number(add("cpu.load", "1").SetEmptyGauge().DataPoints().AppendEmpty(), 0.5)
	sum := add("http.requests", "").SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	number(sum.DataPoints().AppendEmpty(), 7)
	e := sum.DataPoints().At(0).Exemplars().AppendEmpty()
	e.SetTimestamp(ts)
	e.SetDoubleValue(1)
	e.SetTraceID([16]byte{1})
	h := add("http.duration", "s").SetEmptyHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	hp := h.DataPoints().AppendEmpty()
	hp.SetTimestamp(ts)
	hp.SetCount(3)
	hp.SetSum(4)
	hp.ExplicitBounds().FromRaw([]float64{0.1, 1})
	hp.BucketCounts().FromRaw([]uint64{1, 1, 1})
	x := add("http.size", "By").SetEmptyExponentialHistogram()
	x.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	xp := x.DataPoints().AppendEmpty()
	xp.SetTimestamp(ts)
	xp.SetScale(2)
	xp.SetCount(3)
	xp.SetSum(9)
	xp.Positive().BucketCounts().FromRaw([]uint64{1, 2})
	s := add("rpc.latency", "ms").SetEmptySummary().DataPoints().AppendEmpty()
	s.SetTimestamp(ts)
	s.SetCount(2)
	s.SetSum(5)
	q := s.QuantileValues().AppendEmpty()
	q.SetQuantile(0.5)
	q.SetValue(2)
	return md, all
}

// prometheusSeries is what Prometheus makes of the same request.
func prometheusSeries(t *testing.T, body []byte) []string {
	t.Helper()
	store := teststorage.New(t)
	h := remote.NewOTLPWriteHandler(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), store, func() config.Config { return config.DefaultConfig }, remote.OTLPOptions{LookbackDelta: 5 * time.Minute})
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	r.Header.Set("Content-Type", mediaType)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	q, err := store.Querier(math.MinInt64, math.MaxInt64)
	require.NoError(t, err)
	defer q.Close()
	set := q.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	var out []string
	for set.Next() {
		var ls []wire.Label
		set.At().Labels().Range(func(l labels.Label) { ls = append(ls, wire.Label{Name: l.Name, Value: l.Value}) })
		out = append(out, "t "+wire.SeriesString(ls))
	}
	require.NoError(t, set.Err())
	return out
}

// What OTLP becomes is what it becomes in Prometheus, whatever it is sent as.
func TestOTLPBecomesWhatPrometheusMakesOfIt(t *testing.T) {
	now := time.Now()
	md, _ := otlpMetrics(now)
	body := otlpProto(t, md)
	asJSON, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalJSON()
	require.NoError(t, err)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(body)
	require.NoError(t, z.Close())
	want := prometheusSeries(t, body)
	require.Len(t, want, 12)
	for _, c := range []struct {
		body    []byte
		headers []string
	}{
		{body, nil},
		{asJSON, []string{"Content-Type", "application/json; charset=utf-8"}},
		{zipped.Bytes(), []string{"Content-Encoding", "gzip"}},
	} {
		for _, path := range otlpPaths {
			d := newDoor(t)
			w := d.otlp(path, c.body, c.headers...)
			require.Equal(t, http.StatusOK, w.Code, w.Body)
			slices.Sort(d.ing.got)
			require.ElementsMatch(t, want, d.ing.got)
			require.Len(t, d.ing.hist, 1)
			require.Equal(t, []string{"cpu_load_ratio", "http_duration_seconds", "http_requests_total", "http_size_bytes", "rpc_latency_milliseconds", "target_info"}, sorted(d.ing.families))
			res := pmetricotlp.NewExportResponse()
			if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
				require.NoError(t, res.UnmarshalJSON(w.Body.Bytes()))
			} else {
				require.NoError(t, res.UnmarshalProto(w.Body.Bytes()))
			}
			require.Zero(t, res.PartialSuccess().RejectedDataPoints())
			require.Zero(t, d.inflight.total())
		}
	}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// Deltas are refused, and said so; the rest is stored.
func TestOTLPDeltasAreRefused(t *testing.T) {
	now := time.Now()
	md, all := otlpMetrics(now)
	all.At(1).Sum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	all.At(2).Histogram().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	all.At(2).Histogram().DataPoints().At(0).CopyTo(all.At(2).Histogram().DataPoints().AppendEmpty())
	all.At(3).ExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityUnspecified)
	d := newDoor(t)
	w := d.otlp("/otlp/v1/metrics", otlpProto(t, md))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	res := pmetricotlp.NewExportResponse()
	require.NoError(t, res.UnmarshalProto(w.Body.Bytes()))
	require.EqualValues(t, 4, res.PartialSuccess().RejectedDataPoints())
	require.Contains(t, res.PartialSuccess().ErrorMessage(), `metric "http.requests" has delta temporality`)
	require.Contains(t, res.PartialSuccess().ErrorMessage(), "refused: 3 err-otlp-delta, 1 err-otlp-metric")
	require.Len(t, d.ing.got, 5) // gauge, summary, target_info

	md, all = otlpMetrics(now)
	all.RemoveIf(func(m pmetric.Metric) bool { return m.Name() != "http.requests" })
	all.At(0).Sum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	w = d.otlp("/otlp/v1/metrics", otlpProto(t, md))
	require.Equal(t, http.StatusBadRequest, w.Code, "nothing of it is stored")
	var problem rpcstatus.Status
	require.NoError(t, proto.Unmarshal(w.Body.Bytes(), &problem))
	require.Contains(t, problem.Message, "err-otlp-delta")
}

// What is no OTLP, and what is too much of it.
func TestOTLPThatIsRefused(t *testing.T) {
	md, all := otlpMetrics(time.Now())
	body := otlpProto(t, md)
	bomb := func(n int) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		for range n {
			_, _ = z.Write(make([]byte, 1<<10))
		}
		_ = z.Close()
		return b.Bytes()
	}
	// A data point that becomes thousands of series, each with all its labels.
	wide := all.At(2).Histogram().DataPoints().At(0)
	wide.Attributes().PutStr("long", strings.Repeat("x", 1000))
	bounds, counts := make([]float64, 2000), make([]uint64, 2001)
	for i := range bounds {
		bounds[i] = float64(i)
	}
	wide.ExplicitBounds().FromRaw(bounds)
	wide.BucketCounts().FromRaw(counts)
	small := func(d *door) { d.cfg.MaxRequestBytes = 1 << 20 }
	little := func(d *door) { d.cfg.MaxRequestBytes, d.cfg.MaxInflightBytes = 1<<20, 4<<20 }
	for _, c := range []struct {
		id      string
		status  int
		body    []byte
		change  func(*door)
		headers []string
	}{
		{"err-content-type", 415, body, nil, []string{"Content-Type", "text/plain"}},
		{"err-content-encoding", 415, body, nil, []string{"Content-Encoding", "br"}},
		{"err-otlp-request", 400, []byte("\xff\xff"), nil, nil},
		{"err-otlp-request", 400, []byte("{"), nil, []string{"Content-Type", "application/json"}},
		{"err-decompress", 400, body, nil, []string{"Content-Encoding", "gzip"}},
		{"err-request-too-large", 413, make([]byte, 1<<20+1), small, nil},
		{"err-request-too-large", 413, bomb(1 << 11), small, []string{"Content-Encoding", "gzip"}},
		{"err-request-too-large", 413, bomb(1000), little, []string{"Content-Encoding", "gzip"}},
		{"err-distributor-busy", 503, bomb(1000), nil, []string{"Content-Encoding", "gzip"}},
		{"err-request-too-large", 413, otlpProto(t, md), small, nil},
		{"err-distributor-busy", 503, otlpProto(t, md), nil, nil},
		{"err-ingestion-burst", 413, body, func(d *door) { d.limits.Defaults.IngestionRate, d.limits.Defaults.IngestionBurst = 1, 1 }, nil},
		{"internal error", 503, body, func(d *door) { d.ing.err = errSecret }, nil},
	} {
		changes := []func(*door){}
		if c.change != nil {
			changes = append(changes, c.change)
		}
		d := newDoor(t, changes...)
		others := int64(0)
		if c.id == "err-distributor-busy" {
			others = d.inflight.max - 1<<10
			d.inflight.used = others // of many tenants together
		}
		w := d.otlp("/otlp/v1/metrics", c.body, c.headers...)
		require.Equal(t, c.status, w.Code, "%s: %s", c.id, w.Body)
		require.Contains(t, w.Body.String(), c.id)
		require.NotContains(t, w.Body.String(), errSecret.Error())
		require.Equal(t, c.status == 503, w.Header().Get("Retry-After") != "")
		require.Equal(t, others, d.inflight.total())
		require.Empty(t, d.ing.got)
	}
	d := newDoor(t, func(d *door) { d.limits.Defaults.IngestionRate, d.limits.Defaults.IngestionBurst = 1, 12 })
	require.Equal(t, http.StatusOK, d.otlp("/otlp/v1/metrics", body).Code)
	w := d.otlp("/otlp/v1/metrics", body)
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))

	w = d.otlp("/otlp/v1/metrics", []byte("[]"), "Content-Type", "application/json")
	var problem rpcstatus.Status
	require.NoError(t, protojson.Unmarshal(w.Body.Bytes(), &problem))
	require.Contains(t, problem.Message, "err-otlp-request")
	require.Equal(t, http.StatusOK, d.otlp("/otlp/v1/metrics", nil).Code, "nothing is nothing")
}

var errSecret = errors.New("disk of a certain host is gone")

func FuzzOTLP(f *testing.F) {
	md, _ := otlpMetrics(time.Unix(1_700_000_000, 0))
	body, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(f, err)
	f.Add(body, false)
	body, err = pmetricotlp.NewExportRequestFromMetrics(md).MarshalJSON()
	require.NoError(f, err)
	f.Add(body, true)
	f.Fuzz(func(t *testing.T, body []byte, json bool) {
		d := newDoor(t, func(d *door) { d.cfg.MaxRequestBytes = 1 << 20 })
		ct := mediaType
		if json {
			ct = jsonType
		}
		w := d.otlp("/otlp/v1/metrics", body, "Content-Type", ct)
		if w.Code == http.StatusServiceUnavailable {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if n := d.inflight.total(); n != 0 {
			t.Errorf("%d bytes are not given back", n)
		}
	})
}
