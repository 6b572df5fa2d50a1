package querier

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// plainAPI is Prometheus' API over one database, with nothing of ours.
func plainAPI(h *house, db *tsdb.DB, targets func(context.Context) v1.TargetRetriever) http.Handler {
	return mountAPI(apiParts{
		engine:    plainEngine(),
		data:      db,
		exemplars: db,
		targets:   targets,
		buildInfo: h.buildInfo(),
		lookback:  5 * time.Minute,
		parser:    NewParser(),
		logger:    h.logger,
	})
}

func plainEngine() *promql.Engine {
	opts := engineOpts(DefaultConfig(), NewParser(), nil)
	opts.MaxSamples = tenant.DefaultLimits().MaxSamplesPerQuery
	return promql.NewEngine(opts)
}

const (
	instant = "/query"
	ranged  = "/query_range"
)

// answers is what clients ask, right and wrong. Every row is sent by GET and,
// where Prometheus has it, by POST.
func answers() []request {
	at := secs(t0 + 90*minute)
	start, end := secs(t0), secs(t0+2*hour)
	q := func(expr string, more ...string) request {
		return request{path: instant, form: params(append([]string{"query", expr, "time", at}, more...)...)}
	}
	qr := func(expr string, more ...string) request {
		return request{path: ranged, form: params(append([]string{"query", expr, "start", start, "end", end, "step", "60"}, more...)...)}
	}
	g := func(path string, kv ...string) request { return request{path: path, form: params(kv...)} }
	return []request{
		q("1"), q("1+1"), q(`"text"`), q("up"), q("up[5m]"), q("requests_total"), q("sum by (job) (rate(requests_total[5m]))"),
		q("native"), q("native_float"), q("histogram_quantile(0.9, native)"), q("up == 1"), q("nothing"), q("vector(1)"), q("time()"),
		q("up @ end()"), q("up offset -10m"), q("max_over_time(up[1h:5m])"), q("topk(2, requests_total)"), q("limitk(3, requests_total)"),
		q(`{"with.dot"}`), q(`{"weird name/ü"="x"}`), q("requests_total", "limit", "3"), q("requests_total[5m]", "limit", "2"),
		q("up", "lookback_delta", "1s"), q("up", "lookback_delta", "x"), q("up", "timeout", "10"), q("up", "timeout", "1m"), q("up", "timeout", "x"),
		q("up", "timeout", "0"), q("up", "timeout", "-1"),
		q("up", "limit", "x"), q("up", "limit", "-1"), q("up + on(nothing) up"), q("requests_total * on(job) group_left up"), q("requests_total * on(job) up"),
		q("rate(up[5m])"), q("sum(native) + sum(up)"), q("rate(native[5m]) + 1"), q("up{"), q(""), q("foo(up)"), q("up[5m:]"), q("sum("), q("up offset"),
		q("label_replace(up, \"a b\", \"x\", \"job\", \"(.*)\")"), q("sort_by_label(up, \"job\")"), q("rate(requests_total[5m + 5m])"),
		q("holt_winters(up[5m], 0.5, 0.5)"), q("quantile(2, up)"), q("increase(with.dot[5m])"), q("count_values(\"v\", up)"), q("sort_by_label(info(up), \"job\")"),
		g(instant, "query", "up", "time", "x"), g(instant, "query", "up", "time", "2023-11-14T23:00:00Z"), g(instant, "query", "up", "time", "1e300"),
		g(instant, "time", at), g(instant, "query", "1", "time", "-1"),
		qr("up"), qr("sum(rate(requests_total[5m]))"), qr("native"), qr("requests_total - requests_total offset 10m"), qr("1"), qr("absent(nothing)"),
		qr("up[5m]"), qr(`"text"`), qr("up", "limit", "1"), qr("avg_over_time(up[10m:1m])"), qr("up @ start()"), qr("topk(1, requests_total)"),
		qr("up unless requests_total"), qr("histogram_avg(native)"), qr("deriv(requests_total[3m])"), qr("predict_linear(requests_total[3m], 60)"),
		g(ranged, "query", "up"), g(ranged, "query", "up", "start", start), g(ranged, "query", "up", "start", start, "end", end),
		g(ranged, "query", "up", "start", end, "end", start, "step", "60"), g(ranged, "query", "up", "start", start, "end", end, "step", "0"),
		g(ranged, "query", "up", "start", start, "end", end, "step", "-1"), g(ranged, "query", "up", "start", start, "end", end, "step", "0.1"),
		g(ranged, "query", "up", "start", start, "end", end, "step", "5m"), g(ranged, "query", "up", "start", "a", "end", end, "step", "5m"),
		g(ranged, "query", "up", "start", start, "end", "NaN", "step", "5m"), g(ranged, "query", "up", "start", start, "end", end, "step", "1e30"),
		g("/series"), g("/series", "match[]", "up"), g("/series", "match[]", "up", "match[]", "requests_total{job=~\"a|b\"}"),
		g("/series", "match[]", "up", "limit", "1"), g("/series", "match[]", "{}"), g("/series", "match[]", "up{"), g("/series", "match[]", "up", "start", "x"),
		g("/series", "match[]", "up", "start", start, "end", end), g("/series", "match[]", "up", "start", "1", "end", "2"), g("/series", "match[]", "up", "limit", "x"),
		g("/series", "match[]", `{__name__=~".+"}`, "match[]", `{job="a"}`),
		g("/labels"), g("/labels", "match[]", "up"), g("/labels", "match[]", "up", "match[]", `{"weird name/ü"="x"}`), g("/labels", "limit", "2"),
		g("/labels", "start", "1", "end", "2"), g("/labels", "start", "x"), g("/labels", "match[]", "{}"), g("/labels", "limit", "-3"), g("/labels", "match[]", "nothing"),
		g("/label/job/values"), g("/label/job/values", "match[]", "up"), g("/label/job/values", "match[]", "up", "match[]", "requests_total"),
		g("/label/__name__/values"), g("/label/__name__/values", "limit", "1"), g("/label/job/values", "start", start, "end", end),
		g("/label/job/values", "start", "1", "end", "2"), g("/label/nothing/values"), g("/label/job/values", "limit", "a"), g("/label/job/values", "end", "a"),
		g("/label/U__weird_20_name_2f__fc_/values"), g("/label/with%20space/values"), g("/label/%ff/values"), g("/label/a:b/values"), g("/label/U__x/values"),
		g("/query_exemplars", "query", "requests_total"), g("/query_exemplars", "query", "requests_total", "start", start, "end", end),
		g("/query_exemplars", "query", "requests_total", "start", end, "end", start), g("/query_exemplars", "query", "1"), g("/query_exemplars", "query", "x{"),
		g("/query_exemplars"), g("/query_exemplars", "query", "nothing"), g("/query_exemplars", "query", "requests_total", "start", "x"),
		g("/query_exemplars", "query", "requests_total / up"),
		g("/format_query", "query", "sum  by(job)(rate(up[5m]))/2"), g("/format_query", "query", "sum("), g("/format_query"),
		g("/parse_query", "query", "sum by (job) (rate(up{a=~\"b\"}[5m] offset 1m))"), g("/parse_query", "query", "sum("), g("/parse_query"),
		g("/status/buildinfo"),
	}
}

func TestAnswersEqualPrometheus(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	fill(t, db, "x")
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: db}, t0+hour, 10*minute)
	plain := plainAPI(h, db, nil)

	n := 0
	for _, row := range answers() {
		methods := []string{http.MethodGet, http.MethodPost}
		if strings.HasPrefix(row.path, "/label/") || strings.HasPrefix(row.path, "/status") {
			methods = methods[:1]
		}
		for _, row.method = range methods {
			n++
			want := httptest.NewRecorder()
			plain.ServeHTTP(want, row.to(""))
			got := h.do(alice, row)
			require.Equal(t, want.Code, got.Code, "%s: %s, want %s", row, got.Body, want.Body)
			require.Equal(t, want.Body.String(), got.Body.String(), "%s", row)
			if got.Code == http.StatusServiceUnavailable {
				got.Header().Del("Retry-After") // Prometheus does not say when
			}
			require.Equal(t, want.Header(), got.Header(), "%s", row)
		}
	}
	h.allClosed(t)
	t.Logf("%d answers are equal", n)
}

// stats have times in them; all else of them is equal.
func TestStatsEqualPrometheus(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	fill(t, db, "x")
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: db}, t0+hour, 10*minute)
	plain := plainAPI(h, db, nil)
	times := regexp.MustCompile(`("[a-zA-Z]+Time":)[0-9.e-]+`)
	for _, param := range []string{"", "true", "all", "bad"} {
		row := request{path: ranged, form: params("query", "sum(rate(requests_total[5m]))", "start", secs(t0), "end", secs(t0+hour), "step", "10m", "stats", param)}
		want := httptest.NewRecorder()
		plain.ServeHTTP(want, row.to(""))
		got := h.do(alice, row)
		require.Equal(t, times.ReplaceAllString(want.Body.String(), "$1"), times.ReplaceAllString(got.Body.String(), "$1"))
		require.Equal(t, param != "", strings.Contains(got.Body.String(), "totalQueryableSamples"))
		require.Equal(t, param == "all", strings.Contains(got.Body.String(), "totalQueryableSamplesPerStep"))
	}
}

func TestHeadersAndForms(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	fill(t, db, "x")
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: db}, t0+hour, 10*minute)
	plain := plainAPI(h, db, nil)

	same := func(name string, make func(prefix string) *http.Request) {
		want, got := httptest.NewRecorder(), httptest.NewRecorder()
		plain.ServeHTTP(want, make(""))
		req := make("/api/prom/api/v1")
		h.router.ServeHTTP(got, req.WithContext(tenant.WithID(req.Context(), alice)))
		require.Equal(t, want.Code, got.Code, "%s: %s", name, got.Body)
		require.Equal(t, want.Body.String(), got.Body.String(), name)
		require.Equal(t, want.Header(), got.Header(), name)
	}
	expr := "query=up&time=" + secs(t0+hour)
	same("accept", func(p string) *http.Request {
		r := httptest.NewRequest("GET", p+"/query?"+expr, nil)
		r.Header.Set("Accept", "application/xml")
		return r
	})
	same("gzip", func(p string) *http.Request {
		r := httptest.NewRequest("GET", p+"/query?"+expr, nil)
		r.Header.Set("Accept-Encoding", "gzip")
		return r
	})
	same("origin", func(p string) *http.Request {
		r := httptest.NewRequest("GET", p+"/query?"+expr, nil)
		r.Header.Set("Origin", "https://elsewhere.example")
		return r
	})
	same("bad form in the query of a series call", func(p string) *http.Request {
		return httptest.NewRequest("GET", p+"/series?match[]=up&x=%zz", nil)
	})
	same("bad form in the body of a series call", func(p string) *http.Request {
		r := httptest.NewRequest("POST", p+"/series", strings.NewReader("match[]=up&x=%zz"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	})
	same("a body that is no form", func(p string) *http.Request {
		return httptest.NewRequest("POST", p+"/query?"+expr, strings.NewReader("{}"))
	})
	same("a multipart form", func(p string) *http.Request {
		r := httptest.NewRequest("POST", p+"/query", strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\n1+1\r\n--x\r\nContent-Disposition: form-data; name=\"time\"\r\n\r\n5\r\n--x--\r\n"))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		return r
	})
	same("options", func(p string) *http.Request { return httptest.NewRequest("OPTIONS", p+"/query", nil) })
}

func TestOnlyListedRoutes(t *testing.T) {
	t.Parallel()
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: newDB(t)}, 0, 0)
	for _, row := range []request{
		{path: "/targets"},
		{path: "/rules"},
		{path: "/alerts"},
		{path: "/status/config"},
		{path: "/status/flags"},
		{path: "/status/tsdb"},
		{path: "/features"},
		{path: "/openapi.yaml"},
		{path: "/notifications/live"},
		{path: "/search/metric_names"},
		{path: "/label/a/b/values"},
		{path: "/label/a%2Fb/values"},
		{path: "/query/"},
		{path: "/label/../targets"},
		{path: "/"},
		{path: ""},
		{path: "/admin/tsdb/delete_series", method: "POST"},
		{path: "/write", method: "POST"},
		{path: "/otlp/v1/metrics", method: "POST"},
	} {
		w := h.do(alice, row)
		require.Contains(t, []int{404, 405, 301}, w.Code, "%s", row)
	}
	for _, row := range []request{{path: "/read"}, {path: "/query", method: "DELETE"}, {path: "/label/job/values", method: "POST"}, {path: "/metadata", method: "POST"}} {
		require.Equal(t, http.StatusMethodNotAllowed, h.do(alice, row).Code, "%s", row)
	}
	for _, path := range []string{"/prometheus/api/v1", "/api/prom/api/v1", "/api/v1"} {
		req := httptest.NewRequest("GET", path+"/status/buildinfo", nil)
		w := httptest.NewRecorder()
		h.router.ServeHTTP(w, req.WithContext(tenant.WithID(req.Context(), alice)))
		require.Equal(t, 200, w.Code)
		var info struct {
			Data map[string]any `json:"data"`
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &info))
		require.Equal(t, apiVersion, info.Data["version"])
		require.NotContains(t, info.Data, "features")
	}
}

// What Grafana goes by is true at the moment of the question.
func TestBuildInfoTellsWhatIsThere(t *testing.T) {
	t.Parallel()
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: newDB(t)}, 0, 0)
	var beside Beside
	h.TellOf(func() Beside { return beside })
	for _, beside = range []Beside{{}, {Alerts: true}, {Rules: true}, {Rules: true, Alerts: true}, {}} {
		var info struct {
			Data struct {
				Application string
				Features    map[string]string
			}
		}
		require.NoError(t, json.Unmarshal(h.do(alice, request{path: "/status/buildinfo"}).Body.Bytes(), &info))
		require.Equal(t, beside.Rules, info.Data.Application == "Grafana Mimir")
		if beside.Rules {
			require.Equal(t, "true", info.Data.Features["ruler_config_api"])
			require.Equal(t, fmt.Sprint(beside.Alerts), info.Data.Features["alertmanager_config_api"])
		}
	}
}

func TestNoTenantNoAnswer(t *testing.T) {
	t.Parallel()
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: newDB(t)}, 0, 0)
	for _, path := range []string{"/query", "/labels", "/metadata", "/format_query"} {
		require.Equal(t, http.StatusUnauthorized, h.do("", request{path: path, form: params("query", "up")}).Code)
	}
	q, err := h.Queryable().Querier(0, 1)
	require.NoError(t, err)
	set := q.Select(t.Context(), false, nil, labels.MustNewMatcher(labels.MatchEqual, "a", "b"))
	require.False(t, set.Next())
	require.ErrorContains(t, set.Err(), "err-tenant-missing")
	_, _, err = q.LabelNames(t.Context(), nil)
	require.ErrorContains(t, err, "err-tenant-missing")
	_, err = h.Engine().NewInstantQuery(t.Context(), h.Queryable(), nil, "1", time.Now())
	require.ErrorContains(t, err, "err-tenant-missing")
	_, err = queryable{h.Querier}.ExemplarQuerier(t.Context())
	require.ErrorContains(t, err, "err-tenant-missing")
}

// The version we claim is that of the Prometheus we are built with: v0.315.0
// of the module is Prometheus 3.15.0.
func TestAPIVersionIsTheModules(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	m := regexp.MustCompile(`github.com/prometheus/prometheus v0\.3(\d\d)\.(\d+)\b`).FindSubmatch(mod)
	require.NotNil(t, m)
	minor, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	require.Equal(t, apiVersion, fmt.Sprintf("3.%d.%s", minor, m[2]))
}

type metaStore map[string]scrape.MetricMetadata

func (m metaStore) ListMetadata() (all []scrape.MetricMetadata) {
	for _, mm := range m {
		all = append(all, mm)
	}
	return all
}

func (m metaStore) GetMetadata(name string) (scrape.MetricMetadata, bool) {
	mm, ok := m[name]
	return mm, ok
}
func (m metaStore) SizeMetadata() int   { return 0 }
func (m metaStore) LengthMetadata() int { return len(m) }

type targets []*scrape.Target

func (t targets) TargetsActive() map[string][]*scrape.Target {
	return map[string][]*scrape.Target{"pool": t}
}
func (targets) TargetsDropped() map[string][]*scrape.Target           { return nil }
func (targets) TargetsDroppedCounts() map[string]int                  { return nil }
func (targets) ScrapePoolConfig(string) (*config.ScrapeConfig, error) { return nil, nil }

func TestMetadataEqualsPrometheus(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: db}, 0, 0)
	store := metaStore{}
	h.recent.meta = map[string][]metadata.Metadata{}
	for i, typ := range []model.MetricType{model.MetricTypeCounter, model.MetricTypeGauge, model.MetricTypeHistogram} {
		name := fmt.Sprintf("m%d", i)
		store[name] = scrape.MetricMetadata{MetricFamily: name, Type: typ, Help: "<help> " + name, Unit: "seconds"}
		h.recent.meta[name] = []metadata.Metadata{{Type: typ, Help: "<help> " + name, Unit: "seconds"}}
	}
	target := scrape.NewTarget(labels.EmptyLabels(), nil, nil, nil)
	target.SetMetadataStore(store)
	plain := plainAPI(h, db, func(context.Context) v1.TargetRetriever { return targets{target} })

	for _, form := range [][]string{
		{},
		{"limit", "10"},
		{"limit", "0"},
		{"limit", "-1"},
		{"limit", "x"},
		{"limit_per_metric", "1"},
		{"limit_per_metric", "0"},
		{"limit_per_metric", "-7"},
		{"limit_per_metric", "x"},
		{"metric", "m1"},
		{"metric", "m1", "limit", "1"},
		{"metric", "nothing"},
		{"metric", "m0", "limit", "0"},
	} {
		row := request{path: "/metadata", form: params(form...)}
		want := httptest.NewRecorder()
		plain.ServeHTTP(want, row.to(""))
		got := h.do(alice, row)
		require.Equal(t, want.Code, got.Code, "%s", row)
		require.Equal(t, want.Body.String(), got.Body.String(), "%s", row)
		require.Equal(t, want.Header().Get("Content-Type"), got.Header().Get("Content-Type"))
	}

	h.recent.meta["m1"] = append(h.recent.meta["m1"], metadata.Metadata{Type: "gauge", Help: "another"})
	var found map[string][]metadata.Metadata
	require.NoError(t, json.Unmarshal(decode(t, h.do(alice, request{path: "/metadata", form: params("limit", "2", "limit_per_metric", "1")})).Data, &found))
	require.Len(t, found, 2)
	require.Len(t, found["m1"], 1)
}
