package app

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant/admin"
)

// series is a write request with one sample, an exemplar and metadata for each
// label set.
func series(at time.Time, sets ...labels.Labels) string {
	req := &prompb.WriteRequest{}
	for i, ls := range sets {
		ts := prompb.TimeSeries{
			Labels:    prompb.FromLabels(ls, nil),
			Samples:   []prompb.Sample{{Value: float64(i), Timestamp: at.UnixMilli()}},
			Exemplars: []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace", Value: "of-" + ls.Get("team")}}, Value: 1, Timestamp: at.UnixMilli()}},
		}
		req.Timeseries = append(req.Timeseries, ts)
		req.Metadata = append(req.Metadata, prompb.MetricMetadata{MetricFamilyName: ls.Get("__name__"), Help: "of " + ls.Get("__name__"), Type: prompb.MetricMetadata_GAUGE})
	}
	raw, err := req.Marshal()
	if err != nil {
		panic(err)
	}
	return string(snappy.Encode(nil, raw))
}

// A token with a label policy sees what the policy selects, whatever it asks,
// and of the rest not even that it is there. Help texts are of a metric, not of
// its series: whoever sees one of the series sees them.
func TestNoWayPastALabelPolicy(t *testing.T) {
	a, operator := tokenApp(t)
	var made admin.Created
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`, &made)
	writer := client{t: t, app: a, token: made.Token.Secret}
	now := time.Now()
	writer.must(http.StatusOK, http.MethodPost, "/api/v1/push", series(now,
		labels.FromStrings("__name__", "shared", "team", "payments", "public", "yes"),
		labels.FromStrings("__name__", "shared", "team", "secret", "hidden", "yes"),
		labels.FromStrings("__name__", "own_of_secret", "team", "secret"),
		labels.FromStrings("__name__", "teamless", "hidden", "yes"),
	), nil)
	var narrow admin.SecretToken
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"tenant":"acme","scopes":["metrics:read"],"label_policy":"{team=\"payments\"}"}`, &narrow)
	c := client{t: t, app: a, token: narrow.Secret}

	at, from, to := fmt.Sprint(now.Unix()+1), fmt.Sprint(now.Unix()-60), fmt.Sprint(now.Unix()+60)
	exprs := []string{
		`shared`, `{__name__=~".+"}`, `{team="secret"}`, `{team!="payments"}`, `{team=~"payments|secret"}`, `{team=""}`,
		`shared{team="secret"} or shared`, `sum by (team) ({__name__=~".+"})`, `absent(nothing) + on() group_right() shared`,
		`max_over_time({team=~".*"}[1m])`, `count_values("x", shared) by (team)`, `label_replace(shared, "team", "secretive", "", "")`,
		`info(shared, {hidden=~".*"})`, `last_over_time(shared[5m:1s])`, `shared @ end()`, `shared{team="payments" or team="secret"}`,
	}
	var paths []string
	for _, e := range exprs {
		q := url.QueryEscape(e)
		paths = append(paths,
			"/prometheus/api/v1/query?time="+at+"&query="+q,
			"/prometheus/api/v1/query_range?step=10&start="+from+"&end="+to+"&query="+q,
			"/prometheus/api/v1/query_exemplars?start="+from+"&end="+to+"&query="+q,
			"/prometheus/api/v1/series?start="+from+"&end="+to+"&match[]="+q,
			"/prometheus/api/v1/labels?match[]="+q,
			"/prometheus/api/v1/label/team/values?match[]="+q,
		)
	}
	for _, p := range []string{"labels", "label/team/values", "label/hidden/values", "label/__name__/values", "metadata", "metadata?metric=own_of_secret", "metadata?limit=1", "labels?match[]=%7Bteam%3D%22secret%22%7D"} {
		paths = append(paths, "/prometheus/api/v1/"+p, "/api/prom/api/v1/"+p)
	}
	for _, p := range paths {
		_, _, text := c.do(http.MethodGet, p, "")
		text = strings.ReplaceAll(text, "secretive", "")
		for _, never := range []string{"secret", "own_of_secret", "hidden", "teamless"} {
			if strings.Contains(p, "parse") {
				continue
			}
			require.NotContains(t, stripEcho(text, p), never, p)
		}
	}
	_, _, text := c.do(http.MethodGet, "/prometheus/api/v1/query?query=shared&time="+at, "")
	require.Contains(t, text, "payments")
	_, _, text = c.do(http.MethodGet, "/prometheus/api/v1/metadata", "")
	require.Contains(t, text, "shared")
	_, _, text = c.do(http.MethodGet, "/prometheus/api/v1/query_exemplars?query=shared&start="+from+"&end="+to, "")
	require.Contains(t, text, "of-payments")
	require.NotContains(t, text, "of-secret")

	for _, as := range []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES, prompb.ReadRequest_STREAMED_XOR_CHUNKS} {
		req := &prompb.ReadRequest{
			AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{as},
			Queries: []*prompb.Query{{
				StartTimestampMs: now.Add(-time.Hour).UnixMilli(), EndTimestampMs: now.Add(time.Hour).UnixMilli(),
				Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_RE, Name: "__name__", Value: ".+"}},
			}},
		}
		raw, err := req.Marshal()
		require.NoError(t, err)
		status, _, text := c.do(http.MethodPost, "/prometheus/api/v1/read", string(snappy.Encode(nil, raw)))
		require.Equal(t, http.StatusOK, status, text)
		body := []byte(text)
		if as == prompb.ReadRequest_SAMPLES {
			body, err = snappy.Decode(nil, body)
			require.NoError(t, err)
		}
		require.True(t, bytes.Contains(body, []byte("payments")))
		require.False(t, bytes.Contains(body, []byte("secret")))
	}
	c.must(http.StatusForbidden, http.MethodPost, "/api/v1/push", "", nil)
	c.must(http.StatusForbidden, http.MethodGet, "/api/v1/tenant/tokens", "", nil)
}

// stripEcho takes out what the answer only repeats of the question, as error
// texts do.
func stripEcho(text, path string) string {
	if !strings.Contains(text, `"status":"error"`) {
		return text
	}
	_, query, _ := strings.Cut(path, "?")
	values, _ := url.ParseQuery(query)
	for _, list := range values {
		for _, v := range list {
			text = strings.ReplaceAll(text, strings.ReplaceAll(v, `"`, `\"`), "")
		}
	}
	return text
}
