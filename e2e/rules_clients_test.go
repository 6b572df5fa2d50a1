package e2e

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

// call is a request of a client, and the answer that it needs.
type call struct {
	method, path, body string
	status             int
	answer             string // all of it, or with ... around it a part
}

func (c call) check(t *testing.T, h *hearth, header http.Header) {
	t.Helper()
	status, answer, err := h.do(c.method, c.path, "", header, []byte(c.body))
	require.NoError(t, err)
	require.Equal(t, c.status, status, "%s %s: %s", c.method, c.path, answer)
	if part, ok := strings.CutPrefix(c.answer, "..."); ok {
		require.Contains(t, answer, strings.TrimSuffix(part, "..."), "%s %s", c.method, c.path)
		return
	}
	require.Equal(t, c.answer, answer, "%s %s", c.method, c.path)
}

const (
	accepted  = `{"status":"success","data":null,"errorType":"","error":""}`
	groupOne  = "name: one\ninterval: 30s\nrules:\n    - record: job:up:sum\n      expr: sum by (job) (up)\n"
	groupTwo  = "name: two\nrules:\n    - alert: Down\n      expr: up == 0\n      for: 5m\n      labels:\n        severity: page\n"
	groupTwo2 = "name: two\nrules:\n    - alert: Down\n      expr: up == 0\n      for: 10m\n"
)

// inList is a group as it is written among others, where its rules stand closer.
func inList(group string) string {
	group = strings.ReplaceAll(strings.TrimSuffix(group, "\n"), "\n    ", "\n  ")
	return "    - " + strings.ReplaceAll(group, "\n", "\n      ") + "\n"
}

// provision makes a tenant, and returns its token and what mimirtool and
// cortextool send with each request: the tenant, and basic authentication.
func provision(t *testing.T, h *hearth, id string) (token string, header http.Header) {
	t.Helper()
	token = h.admin(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"`+id+`"}`).Token.Secret
	return token, http.Header{
		"X-Scope-Orgid": {id}, "User-Agent": {"mimirtool/"},
		"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+token))},
	}
}

// The requests of mimirtool and cortextool: rules print, load, diff, get, sync,
// delete, and alertmanager load, get, delete. Verify asks nobody.
func TestRequestsOfRuleTools(t *testing.T) {
	t.Parallel()
	h := startHearth(t)
	for name, path := range map[string]string{
		"mimirtool": "/prometheus/config/v1/rules", "cortextool": "/api/v1/rules", "legacy": "/api/prom/rules", "grafana": "/prometheus/rules",
	} {
		_, header := provision(t, h, name)
		for _, c := range []call{
			// print, of nothing
			{"GET", path, "", 404, "...no rule groups found..."},
			// load: is it there, and as it should be? if not it is sent
			{"GET", path + "/my%20space/one", "", 404, "...group does not exist..."},
			{"POST", path + "/my%20space", groupOne, 202, accepted},
			{"GET", path + "/my%20space/two", "", 404, "...group does not exist..."},
			{"POST", path + "/my%20space", groupTwo, 202, accepted},
			// load again
			{"GET", path + "/my%20space/one", "", 200, groupOne},
			{"GET", path + "/my%20space/two", "", 200, groupTwo},
			// diff and sync: all that is there, then what has changed, and what is not in the files
			{"GET", path, "", 200, "my space:\n" + inList(groupOne) + inList(groupTwo)},
			{"POST", path + "/a%2Fb", groupTwo2, 202, accepted},
			{"POST", path + "/my%20space", groupTwo2, 202, accepted},
			{"DELETE", path + "/my%20space/one", "", 202, accepted},
			{"GET", path + "/a%2Fb", "", 200, "a/b:\n" + inList(groupTwo2)},
			// get
			{"GET", path + "/my%20space/two", "", 200, groupTwo2},
			// delete
			{"DELETE", path + "/my%20space/one", "", 404, "...group does not exist..."},
			{"DELETE", path + "/my%20space/two", "", 202, accepted},
			{"DELETE", path + "/a%2Fb", "", 202, accepted},
			{"DELETE", path + "/a%2Fb", "", 404, "...no rule groups found..."},
			// what is wrong
			{"POST", path + "/x", "name: x\nrules: [{record: a, expr: 'sum('}]", 400, "...could not parse expression..."},
			{"GET", path, "", 404, "...no rule groups found..."},
			// alertmanager get, of nothing; load, get, load of what is wrong, delete
			{"GET", "/api/v1/alerts", "", 404, "......"},
			{"POST", "/api/v1/alerts", "template_files:\n  t.tmpl: '{{ define \"t\" }}x{{ end }}'\nalertmanager_config: |\n  route: {receiver: none}\n  receivers: [{name: none}]\n", 201, ""},
			{"GET", "/api/v1/alerts", "", 200, "...template_files:\n    t.tmpl: '{{ define \"t\" }}x{{ end }}'\nalertmanager_config: |\n..."},
			{"POST", "/api/v1/alerts", "alertmanager_config: 'route: {receiver: nobody}'", 400, "...nobody..."},
			{"DELETE", "/api/v1/alerts", "", 200, ""},
			{"GET", "/api/v1/alerts", "", 404, "......"},
		} {
			c.check(t, h, header)
		}
	}
}

// What Grafana asks a data source to find out what it can do: version and
// features, which are strings; rules where Cortex has them, with a group that
// does not exist; flags, which only Thanos should have; the Alertmanager's state
// and configuration.
func TestRequestsOfGrafana(t *testing.T) {
	t.Parallel()
	h := startHearth(t)
	token, _ := provision(t, h, "acme")
	header := http.Header{"Authorization": {"Bearer " + token}}
	var info struct {
		Status string
		Data   struct {
			Application, Version string
			Features             map[string]string
		}
	}
	status, body, err := h.do(http.MethodGet, "/prometheus/api/v1/status/buildinfo", "", header, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, json.Unmarshal([]byte(body), &info), body)
	require.Equal(t, "Grafana Mimir", info.Data.Application)
	require.Equal(t, "true", info.Data.Features["ruler_config_api"])
	require.Equal(t, "true", info.Data.Features["alertmanager_config_api"])
	for _, c := range []call{
		{"GET", "/prometheus/api/v1/rules", "", 200, `{"status":"success","data":{"groups":[]}}`},
		{"GET", "/prometheus/api/v1/rules?group_limit=40&exclude_alerts=true", "", 200, `{"status":"success","data":{"groups":[]}}`},
		{"GET", "/prometheus/rules/test/test", "", 404, "...group does not exist..."},
		{"GET", "/prometheus/config/v1/rules/test/test?subtype=mimir", "", 404, "...group does not exist..."},
		{"GET", "/prometheus/config/v1/rules", "", 404, "...no rule groups found..."},
		{"GET", "/prometheus/api/v1/status/flags", "", 404, "......"},
		{"POST", "/prometheus/config/v1/rules/ns", groupOne, 202, accepted},
		{"GET", "/prometheus/config/v1/rules/ns/one?subtype=mimir", "", 200, groupOne},
		{"GET", "/prometheus/api/v1/rules?type=record&file[]=ns&rule_group[]=one", "", 200, `..."file":"ns"...`},
		{"DELETE", "/prometheus/config/v1/rules/ns/one?subtype=mimir", "", 202, accepted},
		{"POST", "/api/v1/alerts", "alertmanager_config: |\n  route: {receiver: none}\n  receivers: [{name: none}]\n", 201, ""},
		{"GET", "/api/v1/alerts", "", 200, "...alertmanager_config..."},
		{"GET", "/alertmanager/api/v2/status", "", 200, `..."versionInfo"...`},
		{"GET", "/alertmanager/api/v2/alerts/groups", "", 200, "......"},
		{"GET", "/alertmanager/api/v2/silences", "", 200, "......"},
	} {
		c.check(t, h, header)
	}
}

// promtool reads what Hearth returns, writes into it and asks it, and says of
// rules what hearth says of them.
func TestPromtool(t *testing.T) {
	t.Parallel()
	if !long {
		t.Skip("with the build tag e2e")
	}
	path, err := filepath.Abs(filepath.Join("..", ".cache", "promtool"))
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no promtool: %v (make tools builds it)", err)
	}
	h := startHearth(t)
	token, header := provision(t, h, "acme")
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o666))
		return file
	}
	run := func(program string, args ...string) (code int, out string) {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "HEARTH_ADDRESS="+h.url, "HEARTH_TOKEN="+token)
		text, _ := cmd.CombinedOutput() // the code says it
		return cmd.ProcessState.ExitCode(), string(text)
	}
	must := func(program string, args ...string) string {
		code, out := run(program, args...)
		require.Zero(t, code, "%s %v: %s", program, args, out)
		return out
	}
	client := write("client.yml", "basic_auth: {username: acme, password: "+token+"}\n")
	server := h.url + "/prometheus"

	call{"POST", "/prometheus/config/v1/rules/shop", groupOne, 202, accepted}.check(t, h, header)
	call{"POST", "/prometheus/config/v1/rules/shop", groupTwo, 202, accepted}.check(t, h, header)
	rules := write("shop.yml", must(program(t), "rules", "get", "shop"))
	require.Contains(t, must(path, "check", "rules", rules), "SUCCESS: 2 rules found")
	require.Contains(t, must(program(t), "rules", "check", rules), "SUCCESS: 2 rules found")
	require.Empty(t, must(program(t), "rules", "diff", rules))
	for name, text := range map[string]string{
		"syntax": "groups: [{name: g, rules: [{record: a, expr: 'sum('}]}]", "field": "groups: [{name: g, what: 1}]", "yaml": "groups: {",
		"twice": "groups: [{name: g, rules: [{record: a, expr: up}]}, {name: g, rules: [{record: b, expr: up}]}]", "template": "groups: [{name: g, rules: [{alert: a, expr: up, annotations: {a: '{{'}}]}]",
		"lint": "groups: [{name: g, rules: [{record: a, expr: up}, {record: a, expr: down}]}]", "good": "groups: []",
	} {
		file := write(name+".yml", text)
		want, said := run(path, "check", "rules", "--lint-fatal", file)
		got, says := run(program(t), "rules", "check", "-lint-fatal", file)
		require.Equal(t, want, got, "%s: %s\n%s", name, said, says)
	}
	test := write("test.yml", "rule_files: [shop.yml]\ntests:\n- input_series: [{series: 'up{job=\"j\"}', values: '0x10'}]\n"+
		"  alert_rule_test: [{alertname: Down, eval_time: 6m, exp_alerts: [{exp_labels: {job: j, severity: page}}]}]\n")
	require.Contains(t, must(path, "test", "rules", test), "SUCCESS")
	require.Contains(t, must(program(t), "rules", "test", test), "SUCCESS")

	must(path, "check", "healthy", "--url="+h.url)
	must(path, "check", "ready", "--url="+h.url)
	metrics := write("metrics.txt", "# HELP stock In the shop.\n# TYPE stock gauge\nstock{thing=\"shoe\"} 7\n")
	must(path, "push", "metrics", "--http.config.file="+client, h.url, metrics)
	from := time.Now().Add(-time.Hour).Format(time.RFC3339)
	require.Contains(t, must(path, "query", "instant", "--http.config.file="+client, server, "stock + 1"), "=> 8 @")
	require.Contains(t, must(path, "query", "range", "--http.config.file="+client, server, "stock"), "7 @")
	require.Contains(t, must(path, "query", "series", "--http.config.file="+client, "--match=stock", "--start="+from, server), `thing="shoe"`)
	require.Contains(t, must(path, "query", "labels", "--http.config.file="+client, "--start="+from, server, "thing"), "shoe")
	code, out := run(path, "query", "instant", "--http.config.file="+write("other.yml", "basic_auth: {username: other, password: "+token+"}\n"), server, "stock")
	require.NotZero(t, code, out)
	require.NotContains(t, out, labels.FromStrings("thing", "shoe").String())
}
