package querier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func testHouse(t testing.TB) *house {
	t.Helper()
	db := newDB(t)
	fill(t, db, "x")
	return newHouse(t, map[tenant.ID]*tsdb.DB{alice: db}, t0+hour, 10*minute)
}

func TestLimitsOfATenant(t *testing.T) {
	t.Parallel()
	h := testHouse(t)
	at := secs(t0 + hour)
	instantly := func(expr string) request { return request{path: instant, form: params("query", expr, "time", at)} }
	over := func(span time.Duration, expr string) request {
		return request{path: ranged, form: params("query", expr, "start", secs(t0), "end", secs(t0+span.Milliseconds()), "step", "5m")}
	}
	length := func(l *tenant.Limits) { l.MaxQueryLength = model.Duration(time.Hour) }
	series := func(l *tenant.Limits) { l.MaxSeriesPerQuery = 12 }
	size := func(l *tenant.Limits) { l.MaxQueryExpression = 20 }
	samples := func(l *tenant.Limits) { l.MaxSamplesPerQuery = 100 }
	answer := func(l *tenant.Limits) { l.MaxResponseSize = 1000 }
	for _, row := range []struct {
		name  string
		limit func(*tenant.Limits)
		ask   request
		id    string // of the error, or "" where the query passes
	}{
		{"range at the limit", length, over(time.Hour, "up"), ""},
		{"range at the limit with a selector's on top", length, over(time.Hour, "rate(up[1h])"), ""},
		{"range over", length, over(time.Hour+time.Second, "up"), "err-max-query-length"},
		{"selector over", length, instantly("max_over_time(up[61m])"), "err-max-query-length"},
		{"selector over by a duration expression", length, instantly("max_over_time(up[1h + 1m])"), "err-max-query-length"},
		{"subquery at", length, instantly("max_over_time(up[1h:5m])"), ""},
		{"subquery over", length, instantly("max_over_time(up[2h:5m])"), "err-max-query-length"},
		{"subqueries over together", length, instantly("max_over_time(max_over_time(up[40m:5m])[40m:5m])"), "err-max-query-length"},
		{"an offset is not length", length, instantly("up offset 5h"), ""},
		{"no limit", func(*tenant.Limits) {}, instantly("max_over_time(up[10y])"), ""},

		{"series at the limit", series, instantly("requests_total"), ""},
		{"series over", series, instantly(`{job=~".+"}`), "err-max-series-per-query"},
		{"series of two selectors over", series, instantly("count(requests_total) + count(up)"), "err-max-series-per-query"},
		{"series call over", series, request{path: "/series", form: params("match[]", `{job=~".+"}`)}, "err-max-series-per-query"},
		{"series call over by two matchers", series, request{path: "/series", form: params("match[]", "requests_total", "match[]", "up")}, "err-max-series-per-query"},
		{"labels are not series", series, request{path: "/labels"}, ""},

		{"expression at the limit", size, instantly("up + up + up + up +1"), ""},
		{"expression over", size, instantly("up + up + up + up + 1"), "err-max-query-expression-size"},
		{"selectors over together", size, request{path: "/series", form: params("match[]", "requests_total", "match[]", "requests_total")}, "err-max-query-expression-size"},
		{"format over", size, request{path: "/format_query", form: params("query", "up + up + up + up + up")}, "err-max-query-expression-size"},
		{"exemplars over", size, request{path: "/query_exemplars", form: params("query", "up + up + up + up + up")}, "err-max-query-expression-size"},

		{"samples under the limit", samples, instantly("requests_total"), ""},
		{"samples over", samples, over(time.Hour, "requests_total"), "err-max-samples-per-query"},
		{"answer under the limit", answer, instantly("requests_total"), ""},
		{"answer with many samples", answer, over(time.Hour, "count({job=~'.+'})"), ""},
		{"answer over", answer, over(time.Hour, "requests_total"), "err-max-query-response-size"},
		{"answer of labels over", func(l *tenant.Limits) { l.MaxResponseSize = 10 }, request{path: "/labels"}, "err-max-query-response-size"},
		{"answer of series", func(l *tenant.Limits) { l.MaxResponseSize = 50 }, request{path: "/series", form: params("match[]", "requests_total")}, "err-max-query-response-size"},
		{"no limit of answers", func(l *tenant.Limits) { l.MaxResponseSize = 0 }, over(time.Hour, "requests_total"), ""},

		{"no limit of samples", func(l *tenant.Limits) { l.MaxSamplesPerQuery = 0 }, over(time.Hour, "requests_total"), ""},
	} {
		h.Querier.metrics.refused.Reset()
		h.limits = tenant.DefaultLimits()
		row.limit(&h.limits)
		for _, row.ask.method = range []string{"GET", "POST"} {
			w := h.do(alice, row.ask)
			if row.id == "" {
				require.Equal(t, 200, w.Code, "%s: %s", row.name, w.Body)
				continue
			}
			e := decode(t, w)
			require.Equal(t, http.StatusUnprocessableEntity, w.Code, row.name)
			require.Equal(t, "execution", e.ErrorType, row.name)
			require.Contains(t, e.Error, "("+row.id+")", row.name)
			require.NotContains(t, e.Error, "expanding series", row.name)
		}
		if row.id != "" {
			require.EqualValues(t, 2, testutil.ToFloat64(h.Querier.metrics.refused.WithLabelValues(row.id)), row.name)
		}
	}
	h.allClosed(t)
}

// What is older than the look back is not there, without an error.
func TestLookback(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	app := db.Appender(t.Context())
	now := time.Now().UnixMilli()
	for i := range int64(120) {
		_, err := app.Append(0, fromStrings("__name__", "x"), now-2*hour+i*minute, 1)
		require.NoError(t, err)
	}
	_, err := app.Append(0, fromStrings("__name__", "y"), now-2*hour, 1)
	require.NoError(t, err)
	require.NoError(t, app.Commit())
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: db}, now-hour, minute)
	count := func() string {
		w := h.do(alice, request{path: instant, form: params("query", "count_over_time(x[3h])", "time", secs(now))})
		require.Equal(t, 200, w.Code)
		return w.Body.String()
	}
	require.Contains(t, count(), `"120"`)
	h.limits.MaxQueryLookback = model.Duration(30*time.Minute + 30*time.Second)
	require.Regexp(t, `"(29|30)"`, count())
	require.GreaterOrEqual(t, h.recent.asked[0], now-30*minute-30_000)
	require.JSONEq(t, `["__name__"]`, string(decode(t, h.do(alice, request{path: "/labels"})).Data))
	for path, want := range map[string]string{"/series?match[]=y": "[]", "/series?match[]=x&end=" + secs(now-hour): "[]", "/labels?end=" + secs(now-hour): "[]", "/label/__name__/values?end=" + secs(now-hour): "[]", "/query_exemplars?query=x&end=" + secs(now-hour): "[]"} {
		p, query, _ := strings.Cut(path, "?")
		req := request{path: p}
		req.form, err = parseQuery(query)
		require.NoError(t, err)
		w := h.do(alice, req)
		require.Equal(t, 200, w.Code, path)
		if !strings.Contains(path, "match[]=y") { // a head knows y without looking at its samples' times
			require.JSONEq(t, want, string(decode(t, w).Data), path)
		}
	}
	h.allClosed(t)
}

func TestBodyTooLarge(t *testing.T) {
	t.Parallel()
	h := testHouse(t)
	big := request{method: "POST", path: "/series", form: params("match[]", strings.Repeat("a", maxBody))}
	w := h.do(alice, big)
	e := decode(t, w)
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	require.Equal(t, "too_large_entry", e.ErrorType)
	require.Contains(t, e.Error, "(err-query-body-too-large)")
}

// Each kind of error from below has its code, at whatever depth it comes up
// and whatever asks.
func TestErrorsFromBelow(t *testing.T) {
	t.Parallel()
	at := secs(t0 + hour)
	asks := []request{
		{path: instant, form: params("query", "up", "time", at)},
		{path: ranged, form: params("query", "sum(rate(up[5m]))", "start", secs(t0), "end", at, "step", "60")},
		{path: "/series", form: params("match[]", "up")},
		{path: "/series", form: params("match[]", "up", "match[]", "hist")},
		{path: "/labels", form: params("match[]", "up")},
		{path: "/labels", form: params("match[]", "up", "match[]", "hist")},
		{path: "/label/job/values"},
		{path: "/label/job/values", form: params("match[]", "up", "match[]", "hist")},
	}
	raw := errors.New("open /data/__hearth__/pool/01ABC/index: tenant bob: no such file")
	for _, row := range []struct {
		err    error
		status int
		typ    string // "" where Prometheus' label calls cannot but say "execution"
		text   string
	}{
		{raw, 500, "internal", "err-query-storage"},
		{fmt.Errorf("read block: %w", raw), 500, "internal", "err-query-storage"},
		{wire.Errorf(wire.Internal, "err-x", "told"), 500, "internal", "told (err-x)"},
		{fmt.Errorf("chain: %w", wire.Errorf(wire.Limited, "err-max-chunk-bytes", "12 of 10")), 422, "execution", "12 of 10 (err-max-chunk-bytes)"},
		{wire.Errorf(wire.Unavailable, "err-not-ready", "replaying"), 503, "unavailable", "replaying (err-not-ready)"},
		{&wire.UserError{Kind: wire.Limited, ID: "err-busy", Msg: "busy", RetryAfter: time.Second}, 429, "execution", "busy (err-busy)"},
		{context.DeadlineExceeded, 503, "timeout", "timed out"},
		{fmt.Errorf("get object: %w", context.Canceled), 499, "canceled", "canceled"},
	} {
		for _, side := range []string{"recent opens", "stored opens", "recent", "stored", "deep"} {
			h := sharedHouse(t)
			switch side {
			case "recent opens":
				h.recent.err = row.err
			case "stored opens":
				h.stored.err = row.err
			case "recent":
				h.recent.fail = row.err
			case "stored":
				h.stored.fail = row.err
			case "deep":
				h.stored.deep = row.err
			}
			for i, ask := range asks {
				if side == "deep" && i > 1 {
					break // only an evaluation looks at samples
				}
				w := h.do(alice, ask)
				e := decode(t, w)
				name := fmt.Sprintf("%v, %s, %s", row.err, side, ask)
				require.Equal(t, row.status, w.Code, "%s: %s", name, w.Body)
				require.Contains(t, e.Error, row.text, name)
				require.NotContains(t, e.Error, "pool", name)
				if !strings.HasPrefix(ask.path, "/label") {
					require.Equal(t, row.typ, e.ErrorType, name)
				}
				if row.status == 503 || row.status == 429 {
					require.NotEmpty(t, w.Header().Get("Retry-After"))
				}
			}
			if errors.Is(row.err, raw) {
				require.Contains(t, h.log.String(), "no such file")
				require.Contains(t, h.log.String(), "tenant=alice")
			}
			h.allClosed(t)
		}
	}
	h := sharedHouse(t)
	h.recent.err = raw
	for _, path := range []string{"/metadata", "/query_exemplars"} {
		w := h.do(alice, request{path: path, form: params("query", "up")})
		require.Equal(t, 500, w.Code)
		require.Equal(t, "internal", decode(t, w).ErrorType)
	}
}
