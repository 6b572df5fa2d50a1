package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/querier"
	"github.com/hearth-metrics/hearth/tenant"
)

// cannotRun lists the files of Prometheus' suite that do not apply, and why.
var cannotRun = map[string]string{
	"testdata/start_timestamps.test": "start timestamps of samples are not stored: Prometheus does so only behind a feature flag, in a chunk format that released tools cannot read",
}

// TestPromQLSuite runs Prometheus' own tests of PromQL over the whole way in
// and out: samples are written by remote write, 1.0 and 2.0 in turn, over
// HTTP, and read through the querier. Every clear begins a new tenant; pooled
// and own heads take turns too.
func TestPromQLSuite(t *testing.T) {
	s := startSuite(t)
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	promqltest.RunBuiltinTestsWithStorage(skipping{t}, engine, s.newStorage)
}

type skipping struct{ *testing.T }

func (s skipping) Run(name string, f func(*testing.T)) bool {
	return s.T.Run(name, func(t *testing.T) {
		if why, ok := cannotRun[name]; ok {
			t.Skip(why)
		}
		f(t)
	})
}

type suite struct {
	url       string
	queryable storage.SampleAndChunkQueryable
	tenants   atomic.Int64
}

func startSuite(t *testing.T) *suite {
	cfg := DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.Server.HTTPListenAddress, cfg.Server.GRPCListenAddress = "127.0.0.1:0", "127.0.0.1:0"
	// The suite's samples lie around 1970, and some come in any order.
	l := &cfg.Limits.Defaults
	l.OutOfOrderWindow = model.Duration(100 * 365 * 24 * time.Hour)
	l.MaxLabelValueLength, l.MaxLabelsSize = 0, 0
	cfg.Limits.Tenants = map[tenant.ID]tenant.Limits{}
	for n := range 1000 {
		own := *l
		own.OwnHead = n%3 == 0
		cfg.Limits.Tenants[suiteTenant(int64(n))] = own
	}
	a, err := New(cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, a.Start(context.Background()))
	t.Cleanup(func() { require.NoError(t, a.Stop()) })
	s := &suite{url: "http://" + a.Addr()}
	for _, p := range a.parts {
		if q, ok := p.Service.(*querier.Querier); ok {
			s.queryable = q.Queryable()
		}
	}
	require.NotNil(t, s.queryable)
	return s
}

func suiteTenant(n int64) tenant.ID { return tenant.ID(fmt.Sprintf("suite-%d", n)) }

func (s *suite) newStorage(tb testing.TB) storage.Storage {
	n := s.tenants.Add(1)
	return &suiteStorage{suite: s, tb: tb, id: suiteTenant(n), v2: n%2 == 0}
}

// suiteStorage is one tenant seen as the storage that the suite expects.
type suiteStorage struct {
	*suite
	tb testing.TB
	id tenant.ID
	v2 bool
}

func (s *suiteStorage) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.queryable.Querier(mint, maxt)
	return asTenant{q, s.id}, err
}

func (s *suiteStorage) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	return s.queryable.ChunkQuerier(mint, maxt)
}
func (s *suiteStorage) StartTime() (int64, error) { return 0, nil }
func (s *suiteStorage) Close() error              { return nil }
func (s *suiteStorage) Appender(context.Context) storage.Appender {
	panic("BUG: the suite appends by version 2")
}

func (s *suiteStorage) AppenderV2(context.Context) storage.AppenderV2 {
	return &suiteAppender{suiteStorage: s, byLabels: map[string]*prompb.TimeSeries{}}
}

// asTenant puts the tenant into the context, as the middleware does.
type asTenant struct {
	storage.Querier
	id tenant.ID
}

func (q asTenant) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(tenant.WithID(ctx, q.id), sorted, h, ms...)
}

func (q asTenant) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.Querier.LabelValues(tenant.WithID(ctx, q.id), name, h, ms...)
}

func (q asTenant) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.Querier.LabelNames(tenant.WithID(ctx, q.id), h, ms...)
}

// suiteAppender gathers what one load command appends and pushes it as one
// request.
type suiteAppender struct {
	*suiteStorage
	byLabels map[string]*prompb.TimeSeries
}

func (a *suiteAppender) Append(_ storage.SeriesRef, ls labels.Labels, _, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AppendV2Options) (storage.SeriesRef, error) {
	ts := a.byLabels[ls.String()]
	if ts == nil {
		ts = &prompb.TimeSeries{Labels: prompb.FromLabels(ls, nil)}
		a.byLabels[ls.String()] = ts
	}
	switch {
	case fh != nil:
		ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(t, fh))
	case h != nil:
		ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(t, h))
	default:
		ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: t, Value: v})
	}
	return 1, nil
}

func (a *suiteAppender) Rollback() error { return nil }

func (a *suiteAppender) Commit() error {
	var all []prompb.TimeSeries
	for _, ts := range a.byLabels {
		all = append(all, *ts)
	}
	// Earliest first, so that what can be in order is.
	slices.SortFunc(all, func(x, y prompb.TimeSeries) int { return int(first(x) - first(y)) })
	body, contentType := a.encode(all)
	req, err := http.NewRequest(http.MethodPost, a.url+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		return err
	}
	req.Header.Set(tenant.Header, string(a.id))
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("push: %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return err
}

func first(ts prompb.TimeSeries) int64 {
	t := int64(1) << 60
	if len(ts.Samples) > 0 {
		t = ts.Samples[0].Timestamp
	}
	if len(ts.Histograms) > 0 {
		t = min(t, ts.Histograms[0].Timestamp)
	}
	return t
}

func (a *suiteAppender) encode(all []prompb.TimeSeries) (body []byte, contentType string) {
	if !a.v2 {
		body, err := (&prompb.WriteRequest{Timeseries: all}).Marshal()
		require.NoError(a.tb, err)
		return body, "application/x-protobuf"
	}
	symbols := writev2.NewSymbolTable()
	req := &writev2.Request{}
	for _, ts := range all {
		b := labels.NewScratchBuilder(len(ts.Labels))
		out := writev2.TimeSeries{LabelsRefs: symbols.SymbolizeLabels(ts.ToLabels(&b, nil), nil)}
		for _, s := range ts.Samples {
			out.Samples = append(out.Samples, writev2.Sample{Timestamp: s.Timestamp, Value: s.Value})
		}
		for _, h := range ts.Histograms {
			if h.IsFloatHistogram() {
				out.Histograms = append(out.Histograms, writev2.FromFloatHistogram(0, h.Timestamp, h.ToFloatHistogram()))
			} else {
				out.Histograms = append(out.Histograms, writev2.FromIntHistogram(0, h.Timestamp, h.ToIntHistogram()))
			}
		}
		req.Timeseries = append(req.Timeseries, out)
	}
	req.Symbols = symbols.Symbols()
	body, err := req.Marshal()
	require.NoError(a.tb, err)
	return body, "application/x-protobuf;proto=io.prometheus.write.v2.Request"
}
