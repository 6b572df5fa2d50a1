package ruler

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/ruler/rulefile"
	"github.com/hearth-metrics/hearth/tenant"
)

func recording(name string, n int) string {
	return fmt.Sprintf("name: %s\nrules:\n%s", name, strings.Repeat("  - record: a\n    expr: up\n", n))
}

// The sequence of requests that mimirtool and cortextool send, in each spelling.
func TestConfigAPI(t *testing.T) {
	for _, prefix := range configPaths {
		w := newWorld(t)
		r := w.start()
		for _, step := range []struct {
			method, path, body string
			status             int
			want               string
		}{
			{"GET", "", "", 404, "no rule groups found"},
			{"GET", "/ns", "", 404, "no rule groups found"},
			{"GET", "/ns/g", "", 404, "group does not exist"},
			{"DELETE", "/ns", "", 404, "no rule groups found"},
			{"DELETE", "/ns/g", "", 404, "group does not exist"},
			{"POST", "/ns", recording("g", 1), 202, `{"status":"success","data":null,"errorType":"","error":""}`},
			{"POST", "/ns", recording("h", 2), 202, ""},
			{"POST", "/other", recording("a/b%c", 1), 202, ""},
			{"GET", "", "", 200, "ns:\n    - name: g\n      rules:\n        - record: a\n          expr: up\n"},
			{"GET", "/ns", "", 200, "- name: h"},
			{"GET", "/ns/g", "", 200, "name: g\nrules:\n    - record: a\n      expr: up\n"},
			{"GET", "/other/a%2Fb%25c", "", 200, "name: a/b%c"},
			{"POST", "/ns", recording("g", 3), 202, ""},
			{"DELETE", "/ns/h", "", 202, ""},
			{"DELETE", "/ns/g", "", 202, ""},
			{"GET", "/ns", "", 404, ""},
			{"DELETE", "/other", "", 202, ""},
			{"GET", "", "", 404, "no rule groups found"},
		} {
			status, body := ask(t, r, "t", step.method, prefix+step.path, step.body)
			require.Equal(t, step.status, status, "%s %s: %s", step.method, step.path, body)
			require.Contains(t, body, step.want, "%s %s", step.method, step.path)
		}
	}
}

func TestBadGroups(t *testing.T) {
	w := newWorld(t)
	w.limits.MaxRulesPerGroup, w.limits.MaxRuleGroups = 3, 2
	w.limits.MinRuleInterval = model.Duration(30 * time.Second)
	w.limits.RuleSourceTenants = "a, gone"
	w.status.Store(asID("gone"), tenant.Suspended)
	r := w.start()
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{"", 400, "the body is empty"},
		{"{", 400, "line 1"},
		{"rules: [{record: a, expr: up}]", 400, "the group has no name"},
		{"name: x", 400, "the group has no rules"},
		{"name: x\nunknown: 1\nrules: [{record: a, expr: up}]", 400, "field unknown not found"},
		{"name: x\nsource_tenants: [a, t, other]\nrules: [{record: a, expr: up}]", 400, "reads the tenant other, which the rules of t may not"},
		{"name: x\nsource_tenants: [a, gone]\nrules: [{record: a, expr: up}]", 403, "reads the tenant gone, which is not to be read now"},
		{"name: x\nsource_tenants: [a, 'b/c']\nrules: [{record: a, expr: up}]", 400, "tenant id has the character"},
		{"name: x\nrules:\n- record: a\n  expr: sum(", 400, `rule 1, "a": 4:9: could not parse expression`},
		{"name: x\nrules:\n- alert: A\n  expr: up\n  annotations: {a: '{{'}", 400, "template"},
		{"name: x\nrules: [{record: a, alert: b, expr: up}]", 400, "only one of 'record' and 'alert' must be set"},
		{"name: x\ninterval: 1ms\nrules: [{record: a, expr: up}]", 400, "the least is 1s"},
		{"name: x\nrules: [{record: a, expr: up}]\n---\nname: y\n", 400, "more than one YAML document"},
		{"name: x\ninterval: 29s\nrules: [{record: a, expr: up}]", 400, "has the interval 29s, the limit is 30s (min_rule_evaluation_interval)"},
		{recording("x", 4), 400, "has 4 rules, the limit is 3"},
		{strings.Repeat("#", maxBody+1), 413, "larger than"},
		{"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nname: x\nrules: []", 400, ""},
	} {
		status, body := ask(t, r, "t", "POST", "/api/v1/rules/ns", c.body)
		require.Equal(t, c.status, status, "%.100s: %s", c.body, body)
		require.Contains(t, body, c.want)
	}
	post(t, r, "t", "ns", recording("a", 1))
	post(t, r, "t", "ns", recording("b", 1))
	post(t, r, "t", "ns", recording("b", 2))
	status, body := ask(t, r, "t", "POST", "/api/v1/rules/ns", recording("c", 1))
	require.Equal(t, 400, status)
	require.Contains(t, body, "rule group 3 of 2")
}

func TestHistory(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	for i := range keptVersions + 5 {
		post(t, r, "t", "ns", recording("g", i+1))
	}
	post(t, r, "t", "ns", recording("g", keptVersions+5)) // no change, no version
	status, body := ask(t, r, "t", "GET", "/api/v1/rules-history", "")
	require.Equal(t, 200, status)
	require.Contains(t, body, `{"version":25,`)
	require.Equal(t, keptVersions+1, strings.Count(body, `"version"`), body)
	require.Contains(t, body, `"current":true`)
	status, _ = ask(t, r, "t", "GET", "/api/v1/rules-history/1", "")
	require.Equal(t, 404, status)
	_, old := ask(t, r, "t", "GET", "/api/v1/rules-history/7", "")
	require.Equal(t, 7, strings.Count(old, "record: a"))

	status, _ = ask(t, r, "t", "DELETE", "/api/v1/rules/ns", "")
	require.Equal(t, 202, status)
	status, body = ask(t, r, "t", "POST", "/api/v1/rules-history/7/restore", "")
	require.Equal(t, 202, status, body)
	_, now := ask(t, r, "t", "GET", "/api/v1/rules", "")
	require.Equal(t, old, now)

	status, _ = ask(t, r, "t", "POST", "/ruler/delete_tenant_config", "")
	require.Equal(t, 200, status)
	_, body = ask(t, r, "t", "GET", "/api/v1/rules-history", "")
	require.Equal(t, "[]\n", body)
	status, _ = ask(t, r, "t", "POST", "/ruler/delete_tenant_config", "")
	require.Equal(t, 200, status)
}

// Many groups change at once, as one version, or none of them does.
func TestPatch(t *testing.T) {
	w := newWorld(t)
	w.limits.MaxRuleGroups = 3
	r := w.start()
	rule := "rules: [{record: a, expr: up}]"
	for _, step := range []struct {
		body   string
		status int
		want   string // in the answer; of one that is taken, the groups that are there then
	}{
		{"set: {a: [{name: x, " + rule + "}, {name: y, " + rule + "}], b: [{name: z, " + rule + "}]}", 202, "a/x a/y b/z"},
		{"set: {a: [{name: x, " + rule + "}]}", 202, "a/x a/y b/z"}, // is so already
		{"set: {c: [{name: x, " + rule + "}]}", 400, "rule group 4 of 3"},
		{"set: {c: [{name: x, " + rule + "}]}\ndelete: {a: [x, none], none: [x]}", 202, "a/y b/z c/x"},
		{"set: {d: [{name: x, " + rule + "}, {name: y, rules: [{record: a, expr: '('}]}]}\ndelete: {a: [y], b: [z]}", 400, `namespace "d": group "y": rule 1, "a": 1:`},
		{"set: {d: [{name: x, " + rule + "}, {name: x, " + rule + "}]}", 400, "the name is repeated in the same namespace"},
		{"set: {d: [{name: x, source_tenants: [other], " + rule + "}]}", 400, "err-rules-source-tenants"},
		{"sets: {}", 400, "field sets not found"},
		{"", 400, "the body is empty"},
		{strings.Repeat("#", maxChange+1), 413, "err-rules-too-large"},
		{"delete: {a: [y], b: [z], c: [x]}", 202, ""},
	} {
		status, body := ask(t, r, "t", "PATCH", "/prometheus/config/v1/rules", step.body)
		require.Equal(t, step.status, status, "%.100s: %s", step.body, body)
		if status != 202 {
			require.Contains(t, body, step.want)
			continue
		}
		d, _, err := r.store.get(t.Context(), "t")
		require.NoError(t, err)
		var there []string
		for ns, groups := range d.Namespaces {
			for _, g := range groups {
				there = append(there, ns+"/"+g.Name)
			}
		}
		slices.Sort(there)
		require.Equal(t, step.want, strings.Join(there, " "))
	}
	_, body := ask(t, r, "t", "GET", "/api/v1/rules-history", "")
	require.Equal(t, 3, strings.Count(body, `"version"`), body)
}

// Many who change the same tenant's rules at once, in two processes, lose nothing.
func TestChangesAtOnce(t *testing.T) {
	w := newWorld(t)
	rulers := []*Ruler{w.start(), w.start()}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for {
				status, body := ask(t, rulers[i%2], "t", "POST", "/api/v1/rules/ns", recording(fmt.Sprint("g", i), 1))
				if status == http.StatusServiceUnavailable {
					continue
				}
				if status != 202 {
					t.Errorf("%d: %s", status, body)
				}
				return
			}
		})
	}
	wg.Wait()
	_, body := ask(t, rulers[0], "t", "GET", "/api/v1/rules", "")
	require.Equal(t, 20, strings.Count(body, "name: g"))
}

func FuzzParseGroup(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte("name: x\nrules:\n- null\n"))
	f.Add([]byte("name: x\nrules:\n- &a {record: a, expr: up}\n- *a\n"))
	p := parser.NewParser(parser.Options{})
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := parseGroup(text, p)
		if err != nil {
			return
		}
		d := Document{}
		d.set("ns", g)
		if found, ok := d.find("ns", g.Name); !ok || !rulefile.Equal(&found, &g) {
			t.Fatalf("%q is not found again", g.Name)
		}
	})
}
