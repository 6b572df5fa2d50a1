package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/app"
	"github.com/hearth-metrics/hearth/ruler/rulefile"
	"github.com/hearth-metrics/hearth/tenant/admin"
)

const someRules = `groups:
  - name: availability
    interval: 30s
    rules:
      - record: job:up:sum
        expr: sum by (job) (up)
      - alert: Down
        expr: up == 0
        for: 5m
        labels: {severity: page}
  - name: spare/1
    rules: [{record: one, expr: "1"}]
`

const otherRules = `namespace: of its own
groups:
  - name: g
    rules: [{record: two, expr: "2"}]
---
namespace: left alone
groups:
  - name: g
    rules: [{record: three, expr: "3"}]
`

// versions is how many versions of its rules a tenant has.
func versions(t *testing.T, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, os.Getenv("HEARTH_ADDRESS")+"/api/v1/rules-history", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	var list []struct{}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&list))
	return len(list)
}

// Rules that are too large for one request are sent in a few.
func TestManyRulesTakeFewRequests(t *testing.T) {
	var changes []change
	for i := range 50 {
		g := rulefile.Group{RuleGroup: rulefmt.RuleGroup{Name: fmt.Sprint("g", i)}}
		for range 20 {
			g.Rules = append(g.Rules, rulefmt.Rule{Record: "x", Expr: strings.Repeat("x or ", 2000) + "x"})
		}
		changes = append(changes, change{"create", "ns", g.Name, nil, &g}, change{"delete", "ns", "old" + g.Name, &g, nil})
	}
	sent, requests := 0, 0
	for sent < len(changes) {
		n, text, err := request(changes[sent:])
		require.NoError(t, err)
		require.Less(t, len(text), 4<<20)
		c, err := rulefile.ParseChange(text, app.Parser())
		require.NoError(t, err)
		require.Equal(t, n, len(c.Set["ns"])+len(c.Delete["ns"]))
		sent, requests = sent+n, requests+1
	}
	require.Equal(t, len(changes), sent)
	require.Equal(t, 4, requests)
}

// What is in files gets to the server, and back.
func TestRulesCommands(t *testing.T) {
	dir, hearth := startAsking(t)
	t.Setenv("HEARTH_TOKEN_FILE", filepath.Join(dir, "operator-token"))
	hearth(exitOK, "tenant", "create", "acme")
	var made admin.SecretToken
	require.NoError(t, json.Unmarshal([]byte(hearth(exitOK, "token", "create", "-tenant", "acme", "-scopes", "rules:read,rules:write", "-o", "json")), &made))
	t.Setenv("HEARTH_TOKEN", made.Secret)
	files := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(files, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return path
	}
	write("shop.yml", someRules)
	write("others.yaml", otherRules)
	write("README.md", "no rules")

	require.Empty(t, hearth(exitOK, "rules", "get"))
	require.Contains(t, hearth(exitFailure, "rules", "diff", files), "create shop/availability\n+ name: availability\n+ interval: 30s\n")
	require.Regexp(t, `create +shop +spare/1\n`, hearth(exitOK, "rules", "load", files))
	require.Contains(t, hearth(exitOK, "rules", "load", files), "as in the files")
	require.Equal(t, 1, versions(t, made.Secret), "all at once")
	require.Empty(t, hearth(exitOK, "rules", "diff", files))
	require.Equal(t, "groups:\n  - name: spare/1\n    rules:\n      - record: one\n        expr: \"1\"\n", hearth(exitOK, "rules", "get", "shop", "spare/1"))

	all := write("all.yml", hearth(exitOK, "rules", "get"))
	require.Empty(t, hearth(exitOK, "rules", "diff", all), "what is printed is what is there")
	require.Contains(t, hearth(exitOK, "rules", "check", all), "SUCCESS: 5 rules found")
	require.JSONEq(t, `{"of its own":[{"name":"g","rules":[{"record":"two","expr":"2"}]}]}`, hearth(exitOK, "rules", "get", "of its own", "-o", "json"))
	require.NoError(t, os.Remove(all))

	write("others.yaml", "namespace: of its own\ngroups: []\n")
	write("shop.yml", `groups: [{name: availability, interval: 30s, rules: [{record: "job:up:sum", expr: sum by (job) (up)}, {alert: Down, expr: up == 0, for: 10m, labels: {severity: page}}]}]`)
	diff := hearth(exitFailure, "rules", "diff", files, "-ignored-namespaces", "left alone")
	require.Contains(t, diff, "update shop/availability\n- - alert: Down\n-   expr: up == 0\n-   for: 5m\n")
	require.Contains(t, diff, "+   for: 10m\n")
	require.NotContains(t, diff, "record: job:up:sum")
	require.NotContains(t, diff, "left alone")
	require.JSONEq(t, `{"changes":[{"action":"delete","namespace":"of its own","group":"g"}]}`, hearth(exitFailure, "rules", "diff", files, "-namespaces", "of its own", "-o", "json"))
	require.Regexp(t, `update +shop +availability\ndelete +of its own +g\ndelete +shop +spare/1\n$`, hearth(exitOK, "rules", "sync", files, "-ignored-namespaces", "left alone"))
	require.Equal(t, 2, versions(t, made.Secret))
	require.Regexp(t, `^ACTION +NAMESPACE +GROUP\ndelete +left alone +g\n$`, hearth(exitOK, "rules", "sync", files))
	hearth(exitOK, "rules", "delete", "shop", "availability")
	require.Empty(t, hearth(exitOK, "rules", "get"))
	require.Contains(t, hearth(exitFailure, "rules", "delete", "shop"), "no rule groups found")

	t.Setenv("HEARTH_TOKEN", "hearth_wrong")
	require.Contains(t, hearth(exitUsage, "rules", "diff", files), "err-token-invalid")
	require.Contains(t, hearth(exitUsage, "rules", "load"), "name rule files")
	require.Contains(t, hearth(exitUsage, "rules", "get", "a", "b", "c"), "got 3 names")
}

// Whoever has a token that is for no tenant says whose rules are meant.
func TestRulesOfATenantThatIsNamed(t *testing.T) {
	dir, hearth := startAsking(t)
	t.Setenv("HEARTH_TOKEN_FILE", filepath.Join(dir, "operator-token"))
	hearth(exitOK, "tenant", "create", "acme")
	var made admin.SecretToken
	require.NoError(t, json.Unmarshal([]byte(hearth(exitOK, "token", "create", "-scopes", "rules:read", "-o", "json")), &made))
	t.Setenv("HEARTH_TOKEN", made.Secret)
	require.Contains(t, hearth(exitFailure, "rules", "get"), "err-tenant-missing")
	require.Empty(t, hearth(exitOK, "rules", "get", "-tenant", "acme"))
}

// Files are checked without a server.
func TestRulesCheck(t *testing.T) {
	files := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(files, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return path
	}
	require.Contains(t, command(t, exitOK, "rules", "check", write("good.yml", someRules)), "SUCCESS: 3 rules found")
	bad := write("bad.yml", "groups:\n- name: g\n  rules:\n  - record: a\n    expr: sum(\n- name: g\n  rules: [{record: b, expr: up}]\n")
	out := command(t, exitFailure, "rules", "check", files)
	require.Contains(t, out, `FAILED: `+bad+`: group "g": rule 1, "a": 5:11: could not parse expression`)
	require.Contains(t, out, "repeated in the same namespace")
	require.Contains(t, out, "SUCCESS: 3 rules found")
	twice := write("twice.yml", "groups: [{name: g, labels: {a: b}, rules: [{record: x, expr: up}, {record: x, expr: down, labels: {a: b}}]}]")
	require.Contains(t, command(t, exitOK, "rules", "check", twice), `DUPLICATE: more than one rule gives {__name__="x", a="b"}`)
	command(t, exitLint, "rules", "check", "-lint-fatal", twice)
	require.Contains(t, command(t, exitFailure, "rules", "check", write("unknown.yml", "groups: [{name: g, unknown: 1}]")), "field unknown not found")
	require.Contains(t, command(t, exitFailure, "rules", "check", filepath.Join(files, "nothing")), "no such file")

	test := write("test.yml", "rule_files: [good.yml]\ntests:\n- input_series: [{series: 'up{job=\"j\"}', values: '1 1'}]\n  promql_expr_test: [{expr: 'job:up:sum', eval_time: 1m, exp_samples: [{labels: 'job:up:sum{job=\"j\"}', value: 1}]}]\n")
	require.Equal(t, "Testing "+test+"\n  SUCCESS\n", command(t, exitOK, "rules", "test", test))
	test = write("test.yml", "rule_files: [good.yml]\ntests:\n- name: outage\n  promql_expr_test: [{expr: one, eval_time: 1m}]\n")
	require.Contains(t, command(t, exitFailure, "rules", "test", test), "outage: expr: \"one\", time: 1m, \n        exp: nothing\n        got: {__name__=\"one\"} 1E+00\n")
	require.Contains(t, command(t, exitOK, "rules", "test", "-run", "other", test), "SUCCESS")
}
