package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/stretchr/testify/require"
)

// newcomer is a tenant that writes a counter, a gauge and a native histogram
// every 15 seconds, and knows what must be answered.
type newcomer struct {
	h      *hearth
	tenant string
	proto  *protocol
	scale  float64
	start  int64 // ms, of sample 0
	sent   int   // samples of each series
}

const scrape = 15_000 // ms

// send pushes n more samples of each series.
func (c *newcomer) send(n int) {
	c.h.t.Helper()
	requests := series{labels: seriesLabels(c.h.t, `http_requests_total{job="api",instance="a"}`), meta: &metadata.Metadata{Type: model.MetricTypeCounter, Help: "Requests.", Unit: "requests"}}
	depth := series{labels: seriesLabels(c.h.t, `queue_depth{job="api",team="`+c.tenant+`"}`), meta: &metadata.Metadata{Type: model.MetricTypeGauge, Help: "Waiting."}}
	latency := series{labels: seriesLabels(c.h.t, `latency_seconds{job="api"}`)}
	for range n {
		i, at := int64(c.sent), c.start+int64(c.sent)*scrape
		requests.points = append(requests.points, point{t: at, v: c.scale * 3 * float64(i)})
		depth.points = append(depth.points, point{t: at, v: c.scale + float64(i)})
		latency.points = append(latency.points, point{t: at, h: exponential(i)})
		c.sent++
	}
	requests.exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", c.tenant+"-trace"), Value: 1, Ts: c.last(), HasTs: true}}
	c.h.push(c.proto, c.tenant, requests, depth, latency)
}

func (c *newcomer) last() int64 { return c.start + int64(c.sent-1)*scrape }

// check asks for all that was sent.
func (c *newcomer) check(when string) {
	t := c.h.t
	t.Helper()
	last, n := c.last(), float64(c.sent-1)

	require.Equal(t, []string{fmt.Sprintf(`{__name__="queue_depth", job="api", team="%s"} %v`, c.tenant, c.scale+n)},
		c.h.instant(c.tenant, `{job="api",team!=""}`, last).text(), when)
	require.Equal(t, []string{fmt.Sprintf(`{} %v`, c.scale*12)},
		c.h.instant(c.tenant, `round(60 * sum(rate(http_requests_total[5m])), 0.001)`, last).text(), when)
	require.Equal(t, []string{fmt.Sprintf(`{job="api"} %v`, exponential(int64(n)).Count)},
		c.h.instant(c.tenant, `histogram_count(latency_seconds)`, last).text(), when)
	require.Equal(t, []string{fmt.Sprintf(`{} %d`, c.sent)},
		c.h.instant(c.tenant, fmt.Sprintf(`sum(count_over_time(queue_depth[%ds]))`, c.sent*scrape/1000), last).text(), when)

	all := c.h.over(c.tenant, `queue_depth`, c.start, last, scrape)
	require.Len(t, all.Samples, 1, when)
	require.Len(t, all.Samples[0].Values, c.sent, when)
	for i, v := range all.Samples[0].Values {
		require.Equal(t, fmt.Sprint(c.scale+float64(i)), v[1], "%s, sample %d", when, i)
	}

	between := url.Values{"start": {seconds(c.start)}, "end": {seconds(last)}}
	var names []string
	c.h.ask(c.tenant, "labels", between, &names)
	require.Equal(t, []string{"__name__", "instance", "job", "team"}, names, when)
	c.h.ask(c.tenant, "label/team/values", between, &names)
	require.Equal(t, []string{c.tenant}, names, when)
	c.h.ask(c.tenant, "label/__name__/values", between, &names)
	require.Equal(t, []string{"http_requests_total", "latency_seconds", "queue_depth"}, names, when)
	var found []map[string]string
	between["match[]"] = []string{`{job="api",instance=~".+"}`}
	c.h.ask(c.tenant, "series", between, &found)
	require.Equal(t, []map[string]string{{"__name__": "http_requests_total", "job": "api", "instance": "a"}}, found, when)
}

// checkMemory asks for what the ingester keeps in memory only.
func (c *newcomer) checkMemory() {
	t := c.h.t
	t.Helper()
	var meta map[string][]struct{ Type, Help, Unit string }
	c.h.ask(c.tenant, "metadata", nil, &meta)
	require.Len(t, meta, 2)
	require.Equal(t, []struct{ Type, Help, Unit string }{{"counter", "Requests.", "requests"}}, meta["http_requests_total"])
	require.Equal(t, []struct{ Type, Help, Unit string }{{"gauge", "Waiting.", ""}}, meta["queue_depth"])

	var found []struct {
		SeriesLabels map[string]string
		Exemplars    []struct {
			Labels map[string]string
			Value  string
		}
	}
	c.h.ask(c.tenant, "query_exemplars", url.Values{"query": {"http_requests_total"}, "start": {seconds(c.start)}, "end": {seconds(c.last())}}, &found)
	require.Len(t, found, 1)
	require.Equal(t, map[string]string{"__name__": "http_requests_total", "job": "api", "instance": "a"}, found[0].SeriesLabels)
	require.Len(t, found[0].Exemplars, 1)
	require.Equal(t, map[string]string{"trace_id": c.tenant + "-trace"}, found[0].Exemplars[0].Labels)
}

// TestFirstWay is a newcomer's first hour: what two tenants write is answered
// from memory, from a block on local disk beside memory, after a restart, and
// from the bucket alone.
func TestFirstWay(t *testing.T) {
	t.Parallel()
	h := startHearth(t, "bucket.s3.secret_access_key=hush-hush")
	start := time.Now().Add(-time.Hour).Truncate(time.Minute).UnixMilli()
	tenants := []*newcomer{
		{h: h, tenant: "team-kestrel", proto: remoteWrite1, scale: 1, start: start},
		{h: h, tenant: "team-osprey", proto: remoteWrite2, scale: 1000, start: start},
	}
	each := func(f func(*newcomer)) {
		for _, c := range tenants {
			f(c)
		}
	}
	each(func(c *newcomer) { c.send(80) })
	each(func(c *newcomer) { c.check("from memory"); c.checkMemory() })
	h.flush()
	each(func(c *newcomer) { c.check("from a local block") })
	each(func(c *newcomer) { c.send(60) })
	each(func(c *newcomer) { c.check("from a local block and memory") })
	checkOperatorPages(t, h, tenants)

	h.stop()
	h.start()
	each(func(c *newcomer) { c.check("after a restart") })
	each(func(c *newcomer) { c.send(20) })
	each(func(c *newcomer) { c.check("after a restart, with more") })
	h.flush()
	h.forgetRecent()
	each(func(c *newcomer) { c.check("from the bucket") })
	each(func(c *newcomer) { c.send(5) })
	each(func(c *newcomer) { c.check("from the bucket and memory") })
	checkOperatorPages(t, h, tenants)
}

// checkOperatorPages looks at what belongs to no tenant: it tells neither who
// the tenants are nor how their series are kept apart, nor secrets.
func checkOperatorPages(t *testing.T, h *hearth, tenants []*newcomer) {
	t.Helper()
	for path, want := range map[string]string{
		"/":                                   "/metrics",
		"/ready":                              "ready",
		"/services":                           "ingester       Running",
		"/config":                             "data_dir: " + h.dir,
		"/config?mode=diff":                   "data_dir: " + h.dir,
		"/config?mode=defaults":               "data_dir: ./data",
		"/metrics":                            "hearth_ingester_tenants 2",
		"/prometheus/api/v1/status/buildinfo": "401", // a tenant's
	} {
		status, body, err := h.get(path)
		require.NoError(t, err, path)
		if want == "401" {
			require.Equal(t, http.StatusUnauthorized, status, path)
			continue
		}
		require.Equal(t, http.StatusOK, status, path)
		require.Contains(t, body, want, path)
		require.NotContains(t, body, "hush", path)
		require.NotContains(t, body, "\x00", path)
		require.NotContains(t, body, `\x00`, path)
		require.NotContains(t, body, `\u0000`, path)
		for _, c := range tenants {
			require.NotContains(t, body, c.tenant, path)
		}
	}
}

// TestErrors is what clients that are wrong are told.
func TestErrors(t *testing.T) {
	t.Parallel()
	h := startHearth(t)
	now := time.Now().UnixMilli()

	for _, c := range []struct {
		path, params, kind, text string
		status                   int
	}{
		{"query", "query=sum(", "bad_data", "parse error", 400},
		{"query", "query=1&time=yesterday", "bad_data", "yesterday", 400},
		{"query_range", "query=1&start=0&end=1000&step=0", "bad_data", "step", 400},
		{"query_range", "query=1&start=0&end=1000000&step=1", "bad_data", "11,000 points", 400},
		{"series", "", "bad_data", "match[]", 400},
		{"query", "query=label_replace(vector(1),%22~%22,%22%22,%22%22,%22(%22)", "execution", "invalid regular expression", 422},
	} {
		status, body, err := h.do(http.MethodGet, "/prometheus/api/v1/"+c.path+"?"+c.params, "t", nil, nil)
		require.NoError(t, err)
		require.Equal(t, c.status, status, "%s %s: %s", c.path, c.params, body)
		require.Contains(t, body, `"status":"error"`)
		require.Contains(t, body, `"errorType":"`+c.kind+`"`, "%s %s", c.path, c.params)
		require.Contains(t, body, c.text, "%s %s", c.path, c.params)
	}

	status, body, err := h.get("/prometheus/api/v1/query?query=1")
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, status)
	require.Contains(t, body, "no org id")
	status, _, err = h.do(http.MethodGet, "/prometheus/api/v1/query?query=1", "a/b", nil, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, status)
	status, _, err = h.do(http.MethodGet, "/prometheus/api/v1/nothing", "t", nil, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, status)

	// The good part of a request is stored, and the answer says what is wrong
	// with the rest.
	for _, p := range protocols {
		good := seriesLabels(t, `good{by="`+p.name+`"}`)
		status, body, err = h.send(p, "t",
			floats(good, now, 1, 1),
			floats(labels.FromStrings("job", "nameless"), now, 1, 1, 2),
			floats(seriesLabels(t, `early`), now+time.Hour.Milliseconds(), 1, 1),
		)
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, status, p.name)
		for _, want := range []string{"err-missing-metric-name", "2 err-missing-metric-name", "1 err-too-far-in-future", "the rest of the request is stored"} {
			require.Contains(t, body, want, p.name)
		}
		got, err := h.read("t", now-1000, now+2*time.Hour.Milliseconds(), everything())
		require.NoError(t, err)
		require.Contains(t, got, good.String())
		require.NotContains(t, got, `{__name__="early"}`)
	}
	status, _, err = h.do(http.MethodPost, "/api/v1/push", "t", http.Header{"Content-Type": {"application/json"}}, []byte("{}"))
	require.NoError(t, err)
	require.Equal(t, http.StatusUnsupportedMediaType, status)
}

// TestWrongConfiguration ends before anything is touched, with code 2 and the
// name of the key that was probably meant.
func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-set", "ingester.blok_range=1h"}, "ingester.block_range"},
		{[]string{"-set", "server.http_listen_adress=:1"}, "server.http_listen_address"}, //nolint:misspell // on purpose
		{[]string{"-set", "limits.tenants.t.max_serie=1"}, "max_series"},
		{[]string{"-set", "ingester.block_range=1s"}, "block_range: must be at least 1m"},
		{[]string{"-set", "bucket.type=tape"}, "bucket.type"},
		{[]string{"-config", "does-not-exist.yaml"}, "does-not-exist.yaml"},
		{[]string{"-no-such-flag"}, "no-such-flag"},
		{[]string{"extra"}, "extra"},
	} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), program(t), append([]string{"-set", "data_dir=" + dir + "/data"}, c.args...)...)
		cmd.SysProcAttr = dieWithParent()
		out, _ := cmd.CombinedOutput() // the code below says it better
		require.Equal(t, 2, cmd.ProcessState.ExitCode(), "%v: %s", c.args, out)
		require.Contains(t, string(out), c.want, "%v", c.args)
		require.NoDirExists(t, dir+"/data", "%v", c.args)
	}
	out, err := exec.CommandContext(t.Context(), program(t), "-version").Output()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(out), "hearth "), string(out))
}
