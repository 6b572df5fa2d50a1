package app

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/meter"
)

func request(t *testing.T, a *App, method, path, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.Addr()+path, strings.NewReader(body))
	require.NoError(t, err)
	return r
}

// up writes a sample of the metric up.
func up(t *testing.T, a *App, id string, value float64) {
	t.Helper()
	body, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "job", Value: "j"}},
		Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: value}},
	}}}).Marshal()
	require.NoError(t, err)
	status, text := askAs(t, id, request(t, a, http.MethodPost, "/api/v1/push", string(snappy.Encode(nil, body))))
	require.Equal(t, 200, status, text)
}

// fakeAlertmanager takes alerts.
func alertTaker(t *testing.T) (string, chan notifier.Alert) {
	t.Helper()
	got := make(chan notifier.Alert, 1000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var alerts []notifier.Alert
		if r.URL.Path != "/api/v2/alerts" || json.NewDecoder(bytes.NewReader(body)).Decode(&alerts) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, a := range alerts {
			got <- a
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

const group = `name: g/1
interval: 1s
rules:
  - record: job:up:sum
    expr: sum by (job) (up)
  - alert: Down
    expr: job:up:sum == 0
    labels: {severity: page}
    annotations: {summary: "{{ $labels.job }} is down"}
`

// A rule that is posted records, fires, tells an Alertmanager, resolves, and is
// seen where Prometheus and Mimir would show it.
func TestRules(t *testing.T) {
	cfg := testConfig(t)
	var alerts chan notifier.Alert
	cfg.Limits.Defaults.AlertmanagerURLs, alerts = alertTaker(t)
	a := start(t, cfg)
	up(t, a, "t", 0)

	status, body := askAs(t, "t", request(t, a, http.MethodGet, "/prometheus/config/v1/rules", ""))
	require.Equal(t, 404, status)
	require.Contains(t, body, "no rule groups found")
	status, body = askAs(t, "t", request(t, a, http.MethodPost, "/prometheus/config/v1/rules/a%2Fb", group))
	require.Equal(t, 202, status, body)
	require.JSONEq(t, `{"status":"success","data":null,"errorType":"","error":""}`, body)

	fired := <-alerts
	require.Equal(t, `{alertname="Down", job="j", severity="page"}`, fired.Labels.String())
	require.Equal(t, `{summary="j is down"}`, fired.Annotations.String())
	require.False(t, fired.Resolved())
	require.Eventually(t, func() bool {
		_, body = askAs(t, "t", request(t, a, http.MethodGet, "/prometheus/api/v1/query?query="+url.QueryEscape(`count_over_time(job:up:sum[1m]) and on() ALERTS{alertstate="firing"}`), ""))
		return strings.Contains(body, `"job":"j"`)
	}, 20*time.Second, 50*time.Millisecond, "%s", body)

	status, body = askAs(t, "t", request(t, a, http.MethodGet, "/prometheus/api/v1/rules?type=alert", ""))
	require.Equal(t, 200, status, body)
	for _, s := range []string{`"name":"g/1"`, `"file":"a/b"`, `"state":"firing"`, `"health":"ok"`, `"type":"alerting"`} {
		require.Contains(t, body, s)
	}
	_, body = askAs(t, "t", request(t, a, http.MethodGet, "/prometheus/api/v1/alerts", ""))
	require.Contains(t, body, `"alertname":"Down"`)
	_, body = askAs(t, "other", request(t, a, http.MethodGet, "/prometheus/api/v1/rules", ""))
	require.JSONEq(t, `{"status":"success","data":{"groups":[]}}`, body)

	up(t, a, "t", 1)
	for resolved := false; !resolved; {
		got := <-alerts
		resolved = got.Resolved()
	}

	status, body = askAs(t, "t", request(t, a, http.MethodGet, "/api/v1/rules/a%2Fb/g%2F1", ""))
	require.Equal(t, 200, status, body)
	require.Contains(t, body, "name: g/1\ninterval: 1s\n")
	status, _ = askAs(t, "t", request(t, a, http.MethodDelete, "/api/v1/rules/a%2Fb/g%2F1", ""))
	require.Equal(t, 202, status)
	require.Eventually(t, func() bool { // the series ends with a stale marker
		_, body = askAs(t, "t", request(t, a, http.MethodGet, "/prometheus/api/v1/query?query=job:up:sum", ""))
		return strings.Contains(body, `"result":[]`)
	}, 20*time.Second, 50*time.Millisecond, "%s", body)

	hours, err := a.meter.Usage(t.Context(), "t", time.Now().Add(-2*time.Hour), time.Now())
	require.NoError(t, err)
	var used meter.Usage
	for _, h := range hours {
		used.RuleEvaluations += h.RuleEvaluations
		used.SamplesRead += h.SamplesRead
		used.BytesRead += h.BytesRead
		used.Queries += h.Queries
	}
	require.GreaterOrEqual(t, used.RuleEvaluations, int64(4), "two rules, evaluated at least twice")
	require.GreaterOrEqual(t, used.SamplesRead, used.RuleEvaluations/2)
	require.GreaterOrEqual(t, used.BytesRead, 40*used.Queries, "each answer has an envelope")
}

// Rules over several tenants read what an operator allows them to read, and
// write what is their own.
func TestRulesOverSeveralTenants(t *testing.T) {
	cfg := testConfig(t)
	l := cfg.Limits.Defaults
	l.RuleSourceTenants = "a,b"
	cfg.Limits.Tenants = map[tenant.ID]tenant.Limits{"team": l}
	a := start(t, cfg)
	for id, v := range map[string]float64{"a": 1, "b": 2, "c": 4, "team": 8} {
		up(t, a, id, v)
	}
	const path = "/prometheus/config/v1/rules/ns"
	group := func(sources string) string {
		return "name: all\ninterval: 1s\nsource_tenants: " + sources + "\nrules: [{record: total, expr: sum(up)}, {record: each, expr: up}, {alert: Up, expr: up > 1}]\n"
	}
	status, body := askAs(t, "a", request(t, a, http.MethodPost, path, group("[b]")))
	require.Equal(t, 400, status)
	require.Contains(t, body, "err-rules-source-tenants")
	status, body = askAs(t, "team", request(t, a, http.MethodPost, path, group("[a, c]")))
	require.Equal(t, 400, status)
	require.Contains(t, body, "err-rules-source-tenants")
	status, body = askAs(t, "team", request(t, a, http.MethodPost, path, group("[team, b, a]")))
	require.Equal(t, 202, status, body)

	query := func(id, expr string) string {
		_, body := askAs(t, id, request(t, a, http.MethodGet, "/prometheus/api/v1/query?query="+url.QueryEscape(expr), ""))
		return body
	}
	require.Eventually(t, func() bool {
		return strings.Contains(query("team", `count(ALERTS{alertstate="firing"}) + 100 * total`), `"1102"`)
	}, 20*time.Second, 50*time.Millisecond, "1 + 2 + 8 in all, of which two are above 1")
	require.Contains(t, query("team", `each{__tenant_id__="b"}`), `"2"`)
	require.Contains(t, query("a", "total"), `"result":[]`)
	_, body = askAs(t, "team", request(t, a, http.MethodGet, "/prometheus/api/v1/rules", ""))
	require.Contains(t, body, `"sourceTenants":["team","b","a"]`)

	// What is not allowed any more is not read any more.
	status, body = askAs(t, "team", request(t, a, http.MethodPost, "/admin/v1/tenants", `{"id":"team","limits":{"rule_source_tenants":"a"}}`))
	require.Equal(t, 201, status, body)
	require.Eventually(t, func() bool {
		_, body = askAs(t, "team", request(t, a, http.MethodGet, "/prometheus/api/v1/rules?health=err", ""))
		return strings.Contains(body, "which the rules of team may not")
	}, 20*time.Second, 50*time.Millisecond, "%s", body)
}

// A tenant that is gone leaves no rules and no Alertmanager to the next of that
// name.
func TestRulesGoWithTheTenant(t *testing.T) {
	cfg := testConfig(t)
	a := start(t, cfg)
	b, err := bucket.New(cfg.Bucket, cfg.DataDir, discard(), prometheus.NewRegistry())
	require.NoError(t, err)
	for _, id := range []string{"gone", "stays"} {
		status, body := askAs(t, id, request(t, a, http.MethodPost, "/prometheus/config/v1/rules/ns", group))
		require.Equal(t, 202, status, body)
		status, body = askAs(t, id, request(t, a, http.MethodPost, "/api/v1/alerts", "alertmanager_config: |\n  route: {receiver: none}\n  receivers: [{name: none}]\n"))
		require.Equal(t, 201, status, body)
	}
	require.NoError(t, forgetful{a.registry, b}.Removed(t.Context(), "gone"))
	for _, path := range []string{"/prometheus/config/v1/rules", "/api/v1/alerts"} {
		status, body := askAs(t, "gone", request(t, a, http.MethodGet, path, ""))
		require.Equal(t, 404, status, body)
		status, body = askAs(t, "stays", request(t, a, http.MethodGet, path, ""))
		require.Equal(t, 200, status, body)
	}
}

// Grafana edits rules where the answer has what it looks for.
func TestBuildInfoTellsOfRules(t *testing.T) {
	a := start(t, testConfig(t))
	_, body := askAs(t, "t", request(t, a, http.MethodGet, "/prometheus/api/v1/status/buildinfo", ""))
	var info struct {
		Data struct {
			Application string
			Features    map[string]any
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &info))
	require.Equal(t, "Grafana Mimir", info.Data.Application)
	require.Equal(t, "true", info.Data.Features["ruler_config_api"])
}
