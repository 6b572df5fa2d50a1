package ruler

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	v1 "github.com/prometheus/prometheus/web/api/v1"
	"github.com/stretchr/testify/require"
)

const second = `name: second
interval: 1m
labels: {team: y}
rules:
  - {record: "job:up:sum", expr: "sum by (job) (up)"}
`

// plainAPI is Prometheus' API over rules that are not evaluated.
func plainAPI(t *testing.T, w *world) *route.Router {
	t.Helper()
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(w.engine, w), Queryable: w, Context: context.Background(),
		GroupLoader: load{"ns": everything, "nt": second, "nu": late}, Logger: promslog.NewNopLogger(),
	})
	go m.Run()
	t.Cleanup(m.Stop)
	require.NoError(t, m.Update(time.Minute, []string{"ns", "nt", "nu"}, labels.EmptyLabels(), "", nil))
	api := v1.NewAPI(
		w.engine, nil, nil, nil, nil, nil, nil, nil,
		func() config.Config { return config.Config{} },
		nil, v1.GlobalURLOptions{}, func(h http.HandlerFunc) http.HandlerFunc { return h }, nil, "", false, false, 0, promslog.NewNopLogger(),
		func(context.Context) v1.RulesRetriever { return m },
		0, 1, 0, false, regexp.MustCompile("x"), nil, nil, nil, nil, nil, nil, nil, false, nil, false, false, false, false,
		time.Minute, false, false, nil, nil, v1.OpenAPIOptions{}, parser.NewParser(parser.Options{}),
	)
	router := route.New()
	api.Register(router)
	return router
}

// What is asked of rules is answered as Prometheus answers, errors too.
func TestFiltersAreThoseOfPrometheus(t *testing.T) {
	synctest.Test(t, testFilters) // where no time passes nothing is evaluated
}

func testFilters(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	for ns, g := range map[string]string{"ns": everything, "nt": second, "nu": late} {
		post(t, r, "t", ns, g)
	}
	synctest.Wait()
	require.Len(t, r.ourStates("t"), 3)
	api := plainAPI(t, w)
	for _, q := range []string{
		"", "type=alert", "type=record", "type=other", "rule_name[]=Down", "rule_name[]=Down&rule_name[]=late:up", "rule_name[]=none",
		"rule_group[]=all", "rule_group[]=second&rule_group[]=late", "file[]=nt", "file[]=nt&rule_group[]=all",
		"match[]=" + url.QueryEscape(`{team="x"}`), "match[]=" + url.QueryEscape(`{severity="page"}`) + "&match[]=" + url.QueryEscape(`{team="y"}`), "match[]={",
		"exclude_alerts=true", "exclude_alerts=x", "group_limit=2", "group_limit=1&group_next_token=" + pageToken("nt", "second"),
		"group_limit=10&group_next_token=" + pageToken("nt", "second"), "group_limit=1&group_next_token=x", "group_next_token=x", "group_limit=0", "group_limit=x", "group_limit=2&type=alert",
	} {
		rec := httptest.NewRecorder()
		api.ServeHTTP(rec, httptest.NewRequest("GET", "/rules?"+q, nil))
		status, body := ask(t, r, "t", "GET", "/prometheus/api/v1/rules?"+q, "")
		require.Equal(t, rec.Code, status, q)
		var want, got v1.Response
		require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &want))
		require.NoError(t, json.Unmarshal([]byte(body), &got))
		require.Equal(t, want.ErrorType, got.ErrorType, q)
		require.Equal(t, want.Data, got.Data, "%s", q)
	}
	status, body := ask(t, r, "t", "GET", "/prometheus/api/v1/rules?state=unknown&health=unknown", "")
	require.Equal(t, 200, status)
	require.Contains(t, body, `"Down"`)
	require.NotContains(t, body, `"late:up"`)
}
