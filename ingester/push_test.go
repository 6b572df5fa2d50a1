package ingester

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func parseLabels(s string) (labels.Labels, error) {
	return parser.NewParser(parser.Options{}).ParseMetric(s)
}

func own(l *tenant.Limits) { l.OwnHead = true }

// Both kinds of head promise the same.
func inBothHeads(t *testing.T, f func(t *testing.T, n *node)) {
	t.Run("pool", func(t *testing.T) { f(t, newNode(t)) })
	t.Run("own", func(t *testing.T) {
		n := newNode(t)
		own(&n.limits.Defaults)
		f(t, n)
	})
}

func TestPushIsReadBackAndSurvivesRestart(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		b := base()
		n.push("a", series(`up{job="x"}`, at(b, 1), at(b+1000, 2)), series(`up{job="y"}`, at(b, 3)))
		n.push("a", series(`up{job="x"}`, at(b+2000, math.Float64frombits(value.StaleNaN))))
		want := n.read("a")
		require.Len(t, want, 2)
		n.restart()
		require.Equal(t, want, n.read("a"))
		n.push("a", series(`up{job="y"}`, at(b+1000, 4)))
		require.Equal(t, int64(2), n.knownMember("a").series.Load(), "series are counted after a restart")
	})
}

// Pushes that bring the same new series at the same time are all stored for
// good: a sample is behind the record of its series in the log, whoever wrote
// that.
func TestSeriesCreatedByManyPushesAtOnceSurvivesRestart(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.limits.Defaults.OutOfOrderWindow = model.Duration(time.Hour)
		n.start()
		const rounds, senders, width = 40, 4, 50
		b := base()
		for round := range rounds {
			var all sync.WaitGroup
			begin := make(chan struct{})
			for sender := range senders {
				var ts []prompb.TimeSeries
				for k := range width {
					ts = append(ts, series(fmt.Sprintf(`up{round="%d",k="%d"}`, round, k), at(b+int64(sender), float64(sender))))
				}
				r := request(t, "a", ts...)
				all.Go(func() {
					<-begin
					p, err := n.Push(context.Background(), "a", r)
					assert.Equal(t, width, p.Samples, "%v", err)
				})
			}
			close(begin)
			all.Wait()
		}
		want := n.read("a")
		require.Len(t, want, rounds*width)
		n.restart()
		require.Equal(t, want, n.read("a"))
	})
}

func TestTenantsAreApart(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		b := base()
		for k, id := range []tenant.ID{"a", "b", "c", "d", "e", "f"} {
			n.push(id, series(`up{job="x",i="`+string(id)+`"}`, at(b, float64(k))), series(`same`, at(b, float64(k))))
		}
		require.Equal(t, []string{`{__name__="same"} ` + ms(b) + `:1`, `{__name__="up", i="b", job="x"} ` + ms(b) + `:1`}, n.read("b"))
		require.Empty(t, n.read("nobody"))

		q, _, err := n.Querier(context.Background(), "b", 0, math.MaxInt64)
		require.NoError(t, err)
		defer q.Close()
		names, _, err := q.LabelNames(context.Background(), nil)
		require.NoError(t, err)
		require.Equal(t, []string{"__name__", "i", "job"}, names)
		values, _, err := q.LabelValues(context.Background(), "i", nil)
		require.NoError(t, err)
		require.Equal(t, []string{"b"}, values)
		values, _, err = q.LabelValues(context.Background(), bucket.PoolLabel, nil)
		require.NoError(t, err)
		require.Empty(t, values)
		// Asking by the hidden label finds nobody.
		require.Empty(t, n.read("b", labels.MustNewMatcher(labels.MatchEqual, bucket.PoolLabel, "a")))
		require.Len(t, n.read("b", labels.MustNewMatcher(labels.MatchRegexp, "i", "a|b")), 1)
		require.Len(t, n.read("b", labels.MustNewMatcher(labels.MatchRegexp, "i", ".*")), 2)
		require.Len(t, n.read("b", labels.MustNewMatcher(labels.MatchNotRegexp, "i", "a.*")), 2)
	})
}

func TestOrderAndRepetition(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.limit("strict", func(l *tenant.Limits) { l.OutOfOrderWindow = 0; l.OwnHead = n.limits.Defaults.OwnHead })
		n.limit("late", func(l *tenant.Limits) {
			l.OutOfOrderWindow = model.Duration(time.Minute)
			l.OwnHead = n.limits.Defaults.OwnHead
		})
		n.start()
		b := base() + time.Hour.Milliseconds()
		for _, id := range []tenant.ID{"strict", "late"} {
			p := n.push(id, series(`m`, at(b, 1)), series(`k`, at(b, 1)))
			require.Nil(t, p.Refused.First)
			p = n.push(id, series(`m`, at(b, 1)), series(`k`, at(b, 1)))
			require.Nil(t, p.Refused.First, "a repeated sample is no error")
			p = n.push(id, series(`m`, at(b, 2)))
			require.Equal(t, "err-sample-duplicate-timestamp", p.Refused.First.ID)
		}
		p := n.push("strict", series(`m`, at(b-1, 1)), series(`k`, at(b+1, 2)))
		require.Equal(t, "err-sample-out-of-order", p.Refused.First.ID)
		require.Equal(t, 1, p.Samples, "the good part is stored")
		p = n.push("late", series(`m`, at(b-60_000, 7), at(b-60_001, 8)), series(`new`, at(b-10_000, 1)))
		require.Equal(t, []wire.RefusalCount{{ID: "err-sample-out-of-order", Count: 1}}, p.Refused.Counts)
		p = n.push("late", series(`m`, at(b-60_000, 7)))
		require.Nil(t, p.Refused.First)
		require.Equal(t, []string{
			`{__name__="k"} ` + ms(b) + `:1`,
			`{__name__="m"} ` + ms(b-60_000) + `:7 ` + ms(b) + `:1`,
			`{__name__="new"} ` + ms(b-10_000) + `:1`,
		}, n.read("late"))
	})
}

// A tenant that catches up after an outage is not refused because the others
// of its pool are hours ahead, whatever its own window.
func TestCatchingUpInAPool(t *testing.T) {
	n := newNode(t)
	n.limit("slow", func(l *tenant.Limits) { l.OutOfOrderWindow = 0 })
	n.start()
	now := base()
	old := now - 8*time.Hour.Milliseconds()
	for p := range n.pools {
		_ = p
	}
	for _, id := range []tenant.ID{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"} {
		n.push(id, series(`m`, at(now, 1)))
	}
	for k := range int64(200) {
		p := n.push("slow", series(`m`, at(old+k*15_000, 1)))
		require.Nil(t, p.Refused.First, "sample %d", k)
		// A second sender of the tenant is a little behind.
		p = n.push("slow", series(`k`, at(old+max(0, k-10)*15_000, 1)))
		require.Nil(t, p.Refused.First, "sample %d", k)
	}
}

func TestSeriesLimit(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.limits.Defaults.MaxSeries = 2
		n.start()
		b := base()
		p := n.push("a", series(`m{i="1"}`, at(b, 1)), series(`m{i="2"}`, at(b, 1)), series(`m{i="3"}`, at(b, 1)))
		require.Equal(t, 2, p.Samples)
		require.Equal(t, "err-max-series", p.Refused.First.ID)
		require.Contains(t, p.Refused.First.Error(), "2 of 2 (limit max_series)")
		n.limits.Defaults.MaxSeries = 1
		n.restart()
		require.Len(t, n.read("a"), 2, "a limit does not take away what was acknowledged")
		require.Equal(t, 1, n.push("a", series(`m{i="1"}`, at(b+1, 1))).Samples)
	})
}

func TestHistogramsExemplarsMetadata(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		b := base()
		h := prompb.FromIntHistogram(b, tsdbutil.GenerateTestHistogram(1))
		fh := prompb.FromFloatHistogram(b, tsdbutil.GenerateTestFloatHistogram(2))
		ch := prompb.FromIntHistogram(b, tsdbutil.GenerateTestCustomBucketsHistogram(3))
		x := prompb.Exemplar{Labels: []prompb.Label{{Name: "trace_id", Value: "abc"}}, Value: 7, Timestamp: b}
		withHist := func(l string, h prompb.Histogram) prompb.TimeSeries {
			s := series(l)
			s.Histograms = append(s.Histograms, h)
			return s
		}
		withEx := series(`c_total`, at(b, 1))
		withEx.Exemplars = append(withEx.Exemplars, x)
		p := n.push("a", withHist(`h`, h), withHist(`fh`, fh), withHist(`ch`, ch), withEx)
		require.Equal(t, wire.Pushed{Samples: 1, Histograms: 3, Exemplars: 1, Series: 4}, p)
		alone := series(`c_total`)
		alone.Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace_id", Value: "def"}}, Value: 8, Timestamp: b + 1}}
		require.Equal(t, 1, n.push("a", alone).Exemplars, "exemplars may come apart from samples")
		require.Equal(t, 1, n.push("a", alone).Exemplars, "a repeated exemplar is no error")

		eq, err := n.ExemplarQuerier(context.Background(), "a")
		require.NoError(t, err)
		res, err := eq.Select(0, math.MaxInt64, []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "c_total")})
		require.NoError(t, err)
		require.Len(t, res, 1)
		require.Equal(t, `{__name__="c_total"}`, res[0].SeriesLabels.String())
		require.Len(t, res[0].Exemplars, 2)
		eq, err = n.ExemplarQuerier(context.Background(), "b")
		require.NoError(t, err)
		res, err = eq.Select(0, math.MaxInt64, []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "c_total")})
		require.NoError(t, err)
		require.Empty(t, res, "another tenant's exemplars")
		eq, err = n.ExemplarQuerier(context.Background(), "a")
		require.NoError(t, err)
		res, err = eq.Select(0, math.MaxInt64, []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, bucket.PoolLabel, "a")})
		require.NoError(t, err)
		require.Empty(t, res, "by a label that is not there")

		require.Len(t, n.read("a"), 4)
		n.restart()
		require.Len(t, n.read("a"), 4)
		require.Contains(t, n.read("a", labels.MustNewMatcher(labels.MatchEqual, "__name__", "h"))[0], tsdbutil.GenerateTestHistogram(1).String())
	})
}

// A sender may put a series' histograms and the stale marker behind them, which
// is a float, into one entry: then it does not say which comes first.
func TestHistogramsBesideFloatsSurviveRestart(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		b := base()
		first := series(`h`)
		first.Histograms = []prompb.Histogram{prompb.FromIntHistogram(b-1, tsdbutil.GenerateTestHistogram(0))}
		n.push("a", first)
		s := series(`h`, at(b+2, math.Float64frombits(value.StaleNaN)))
		s.Histograms = []prompb.Histogram{prompb.FromIntHistogram(b, tsdbutil.GenerateTestHistogram(1)), prompb.FromIntHistogram(b+1, tsdbutil.GenerateTestHistogram(2))}
		p := n.push("a", s)
		require.Equal(t, 1, p.Samples)
		require.Equal(t, 2, p.Histograms)
		before := n.read("a")
		for _, histogram := range []*histogram.Histogram{tsdbutil.GenerateTestHistogram(1), tsdbutil.GenerateTestHistogram(2)} {
			require.Contains(t, before[0], histogram.String())
		}
		n.restart()
		require.Equal(t, before, n.read("a"))
	})
}

func TestMetadata(t *testing.T) {
	n := newNode(t)
	n.limits.Defaults.MaxMetadata, n.limits.Defaults.MaxMetadataPerMetric = 2, 3
	n.start()
	body, err := (&prompb.WriteRequest{Metadata: []prompb.MetricMetadata{
		{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "c_total", Help: "h", Unit: "u"},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "g", Help: "h2"},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "over", Help: "h3"},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "g", Help: "h4"},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "g", Help: "h5"},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "g", Help: "one too many"},
	}}).Marshal()
	require.NoError(t, err)
	for range 2 { // what is repeated is kept as little as what is new
		body := slices.Clone(body)
		r := new(wire.Request)
		require.NoError(t, r.Walk(body, wire.V1, "a", nil))
		_, err = n.Push(context.Background(), "a", r)
		require.NoError(t, err)
		clear(body) // the store keeps copies
	}
	got, err := n.Metadata(context.Background(), "a", "", 0, 0)
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, "h", got["c_total"][0].Help)
	require.Len(t, got["g"], 3)
	one, err := n.Metadata(context.Background(), "a", "g", 0, 0)
	require.NoError(t, err)
	require.Len(t, one, 1)
	none, err := n.Metadata(context.Background(), "b", "", 0, 0)
	require.NoError(t, err)
	require.Empty(t, none)
}

// Prometheus sends an exemplar in an entry of its own, behind that of the
// sample, also for a series that the request creates.
func TestExemplarBesideTheSampleThatCreatesItsSeries(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		now := base()
		alone := series(`c_total`)
		alone.Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace_id", Value: "abc"}}, Value: 8, Timestamp: now}}
		require.Equal(t, 1, n.push("t", series(`c_total`, at(now, 1)), alone).Exemplars)
		n.restart()
		alone.Exemplars[0].Timestamp++
		require.Equal(t, 1, n.push("t", alone).Exemplars, "after a restart")
		require.Equal(t, 1, n.push("t", alone).Exemplars, "once more")
	})
}

// Of a tenant whose series are on six ingesters, with three copies of each,
// every ingester has half.
func TestSeriesLimitOfACluster(t *testing.T) {
	n := newNode(t)
	n.limits.Defaults.MaxSeries = 4
	n.start()
	n.ShareLimits(func(tenant.ID) (copies, members int) { return 3, 6 })
	b := base()
	p := n.push("a", series(`m{i="1"}`, at(b, 1)), series(`m{i="2"}`, at(b, 1)), series(`m{i="3"}`, at(b, 1)))
	require.Equal(t, 2, p.Samples)
	require.Contains(t, p.Refused.First.Error(), "4 of 4 (limit max_series)")
}

// keyed pushes with keys in place of labels, as a distributor elsewhere does.
func (n *node) keyed(id tenant.ID, ts ...prompb.TimeSeries) *wire.KeyedAnswer {
	n.t.Helper()
	a, err := n.Server().PushKeyed(context.Background(), request(n.t, id, ts...).Keyed(string(id), nil))
	require.NoError(n.t, err)
	return a
}

func TestKeysStandForLabels(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.limits.Defaults.OutOfOrderWindow = 0
		n.start()
		b := base() + time.Hour.Milliseconds()
		up, down := `up{job="x"}`, `up{job="y"}`
		unknown := new(wire.KeyedAnswer)
		require.Equal(t, unknown, n.keyed("a", series(up, at(b, 1))))
		require.Empty(t, n.read("a"))
		n.push("a", series(up, at(b, 1)))
		known := &wire.KeyedAnswer{Known: true, Series: 1}
		require.Equal(t, known, n.keyed("a", series(up, at(b+1, 2), at(b+2, math.Float64frombits(value.StaleNaN)))))
		require.Equal(t, known, n.keyed("a", series(up, at(b+2, math.Float64frombits(value.StaleNaN)))), "repeated")
		want := []string{`{__name__="up", job="x"} ` + ms(b) + `:1 ` + ms(b+1) + `:2 ` + ms(b+2) + `:NaN`}
		require.Equal(t, want, n.read("a"))

		// Not known as a whole, or to be refused in part: nothing is stored.
		require.Equal(t, unknown, n.keyed("a", series(up, at(b+3, 1)), series(down, at(b+3, 1))))
		require.Equal(t, unknown, n.keyed("a", series(up, at(b+3, 1)), series(up, at(b-1, 1))), "out of order")
		require.Equal(t, unknown, n.keyed("a", series(up, at(b+3, 1), at(b, 7))), "another value")
		require.Equal(t, unknown, n.keyed("b", series(up, at(b+3, 1))), "of another tenant")
		require.Equal(t, want, n.read("a"))
		require.Empty(t, n.read("b"))

		other := request(t, "a", series(up, at(b+3, 1))).Keyed("a", nil)
		other.Secret++
		a, err := n.Server().PushKeyed(t.Context(), other)
		require.NoError(t, err)
		require.Equal(t, unknown, a)
		torn := request(t, "a", series(up, at(b+3, 1))).Keyed("a", nil)
		torn.Body = torn.Body[:len(torn.Body)-1]
		_, err = n.Server().PushKeyed(t.Context(), torn)
		require.Error(t, err)
		require.Equal(t, want, n.read("a"))

		// A process that starts learns the keys with the labels.
		n.restart()
		require.Equal(t, unknown, n.keyed("a", series(up, at(b+3, 1))))
		n.push("a", series(up, at(b+3, 1)))
		require.Equal(t, known, n.keyed("a", series(up, at(b+4, 1))))
		want[0] += ` ` + ms(b+3) + `:1 ` + ms(b+4) + `:1`
		require.Equal(t, want, n.read("a"))
		n.restart()
		require.Equal(t, want, n.read("a"))
	})
}
