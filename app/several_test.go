package app

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/admin"
)

// neighbours are tenants who all have the same series, and an operator's token
// that reads.
func neighbours(t *testing.T, a *App, operator client, ids ...string) (tokens map[string]client, reader client) {
	t.Helper()
	tokens = map[string]client{}
	for _, id := range ids {
		var made admin.Created
		operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"`+id+`","labels":{"env":"prod","name":"`+id+`"}}`, &made)
		tokens[id] = client{t: t, app: a, token: made.Token.Secret}
		tokens[id].must(http.StatusOK, http.MethodPost, "/api/v1/push", series(time.Now(),
			labels.FromStrings("__name__", "shared", "team", "payments", "from", id),
			labels.FromStrings("__name__", "shared", "team", "secret", "from", id),
			labels.FromStrings("__name__", "only_"+id, "team", "payments"),
		), nil)
	}
	var made admin.SecretToken
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"scopes":["metrics:read","metrics:write","rules:read","tenant:admin"]}`, &made)
	return tokens, client{t: t, app: a, token: made.Secret}
}

func (c client) as(names string) client {
	c.headers = map[string]string{tenant.Header: names}
	return c
}

// readPaths is every way to read, for everything there is.
func readPaths() []string {
	now := time.Now().Unix()
	span := fmt.Sprintf("start=%d&end=%d", now-300, now+60)
	all := url.QueryEscape(`{__name__=~".+"}`)
	return []string{
		fmt.Sprintf("/query?time=%d&query=%s", now+1, all), "/query_range?step=15&" + span + "&query=" + all, "/query_exemplars?" + span + "&query=" + all,
		"/series?" + span + "&match[]=" + all, "/labels", "/label/from/values", "/label/__name__/values", "/label/__tenant_id__/values", "/metadata",
	}
}

func readBody(t *testing.T, as prompb.ReadRequest_ResponseType) string {
	t.Helper()
	raw, err := (&prompb.ReadRequest{
		AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{as},
		Queries: []*prompb.Query{{
			StartTimestampMs: time.Now().Add(-time.Hour).UnixMilli(), EndTimestampMs: time.Now().Add(time.Hour).UnixMilli(),
			Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_RE, Name: "__name__", Value: ".+"}},
		}},
	}).Marshal()
	require.NoError(t, err)
	return string(snappy.Encode(nil, raw))
}

// Every way to read has the tenants that were asked for, and no other.
func TestSeveralTenantsByEveryRead(t *testing.T) {
	a, operator := tokenApp(t)
	_, reader := neighbours(t, a, operator, "anna", "bert", "carl")
	for names, want := range map[string][]string{"anna|bert": {"anna", "bert"}, `{name=~"bert|carl"}`: {"bert", "carl"}, `{env="prod"}`: {"anna", "bert", "carl"}} {
		for _, path := range readPaths() {
			for _, prefix := range []string{"/prometheus/api/v1", "/api/prom/api/v1"} {
				status, _, text := reader.as(names).do(http.MethodGet, prefix+path, "")
				require.Equal(t, http.StatusOK, status, "%s %s: %s", names, path, text)
				holdsOnly(t, text, path, want)
			}
		}
		for _, as := range []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES, prompb.ReadRequest_STREAMED_XOR_CHUNKS} {
			status, _, text := reader.as(names).do(http.MethodPost, "/prometheus/api/v1/read", readBody(t, as))
			require.Equal(t, http.StatusOK, status, text)
			if as == prompb.ReadRequest_SAMPLES {
				raw, err := snappy.Decode(nil, []byte(text))
				require.NoError(t, err)
				text = string(raw)
			}
			holdsOnly(t, text, "read", want)
		}
	}
	_, _, text := reader.as("anna|bert|carl").do(http.MethodGet, "/prometheus/api/v1/query?query="+url.QueryEscape(`count by (__tenant_id__) ({__tenant_id__!="carl",__name__=~".+"})`), "")
	holdsOnly(t, text, "matcher", []string{"anna", "bert"})
}

func holdsOnly(t *testing.T, text, what string, ids []string) {
	t.Helper()
	for _, id := range []string{"anna", "bert", "carl"} {
		if what == "/labels" {
			require.Contains(t, text, tenant.Label)
			require.NotContains(t, text, id)
			continue
		}
		if slices.Contains(ids, id) {
			require.Contains(t, text, id, what)
		} else {
			require.NotContains(t, text, id, what)
		}
	}
}

// Nobody reads tenants that his token is not for, by whatever he writes into
// the request, and no answer tells that they exist.
func TestNoWayToOthersBySeveral(t *testing.T) {
	a, operator := tokenApp(t)
	tokens, reader := neighbours(t, a, operator, "anna", "bert")
	mine := tokens["anna"]
	for _, names := range []string{
		"bert", "anna|bert", "bert|anna", "anna|anna|bert", "|bert", "anna|", "|", "anna,bert", "anna bert", "anna\tbert", `{}`, `{name="bert"}`, `{__tenant_id__=~".+"}`,
		`{__tenant_id__="anna"}`, "anna|{}", "*", ".*", "anna|*", "anna%7Cbert", "anna/../bert", "ANNA", "anna||bert", "nobody", "anna|nobody",
	} {
		var texts []string
		for _, path := range append(readPaths(), "/query?query=1") {
			status, _, text := mine.as(names).do(http.MethodGet, "/prometheus/api/v1"+path, "")
			require.Equal(t, http.StatusForbidden, status, "%s %s: %s", names, path, text)
			require.NotContains(t, text, "bert")
			texts = append(texts, text)
		}
		status, _, _ := mine.as(names).do(http.MethodPost, "/prometheus/api/v1/read", readBody(t, prompb.ReadRequest_SAMPLES))
		require.Equal(t, http.StatusForbidden, status)
		status, _, _ = mine.as(names).do(http.MethodPost, "/api/v1/push", "")
		require.Equal(t, http.StatusForbidden, status)
		_, _, of := mine.as("nobody").do(http.MethodGet, "/prometheus/api/v1/labels", "")
		for _, text := range texts {
			require.Equal(t, of, text, "the answer is that for a tenant that does not exist")
		}
	}
	// The label of several tenants leads nowhere from one.
	for _, expr := range []string{`shared{__tenant_id__="bert"}`, `{__tenant_id__=~"bert|anna"}`, `shared or {original___tenant_id__="bert"}`} {
		_, _, text := mine.do(http.MethodGet, "/prometheus/api/v1/query?query="+url.QueryEscape(expr), "")
		require.NotContains(t, text, "bert", expr)
	}
	// Who may read several may not write to them, nor have anything else of them.
	for method, paths := range map[string][]string{
		http.MethodPost: {"/api/v1/push"},
		http.MethodGet:  {"/prometheus/api/v1/rules", "/api/v1/tenant", "/api/v1/tenant/tokens", "/api/v1/tenant/usage", "/api/v1/user_limits", "/api/v1/user_stats"},
	} {
		for _, path := range paths {
			for _, names := range []string{"anna|bert", "{}"} {
				status, _, text := reader.as(names).do(method, path, "")
				require.Equal(t, http.StatusBadRequest, status, "%s %s", path, text)
				require.Contains(t, text, "err-several-tenants")
			}
		}
	}
}

// A label policy holds for each of several tenants.
func TestNoWayPastALabelPolicyBySeveral(t *testing.T) {
	a, operator := tokenApp(t)
	neighbours(t, a, operator, "anna", "bert")
	var made admin.SecretToken
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"scopes":["metrics:read"],"label_policy":"{team=\"payments\"}"}`, &made)
	narrow := client{t: t, app: a, token: made.Secret}.as("anna|bert")
	exprs := []string{`{__name__=~".+"}`, `shared{__tenant_id__="anna"}`, `{__tenant_id__="bert",team="secret"}`, `{original___tenant_id__=""}`, `shared{team!="payments"}`}
	for _, path := range readPaths() {
		_, _, text := narrow.do(http.MethodGet, "/prometheus/api/v1"+path, "")
		require.NotContains(t, text, "secret", path)
	}
	for _, e := range exprs {
		q := url.QueryEscape(e)
		for _, path := range []string{"/query?query=" + q, "/query_exemplars?start=0&end=99999999999&query=" + q, "/series?match[]=" + q, "/label/team/values?match[]=" + q, "/label/__tenant_id__/values?match[]=" + q} {
			_, _, text := narrow.do(http.MethodGet, "/prometheus/api/v1"+path, "")
			require.NotContains(t, stripEcho(text, path), "secret", path)
		}
	}
	_, _, text := narrow.do(http.MethodGet, "/prometheus/api/v1/query?query=shared", "")
	holdsOnly(t, text, "shared", []string{"anna", "bert"})
}
