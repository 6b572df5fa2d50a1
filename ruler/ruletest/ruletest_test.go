package ruletest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grafana/regexp"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(t *testing.T) Options {
	return Options{
		Parser: parser.NewParser(parser.Options{EnableExperimentalFunctions: true}),
		Warn:   func(s string) { t.Log(s) },
	}
}

// upstream is the folder of the files that promtool is tested with.
func upstream(t *testing.T) string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/prometheus/prometheus").Output()
	require.NoError(t, err)
	return filepath.Join(strings.TrimSpace(string(dir)), "cmd", "promtool", "testdata")
}

// The files that promtool is tested with succeed and fail as they do there.
func TestFilesOfPromtool(t *testing.T) {
	dir := upstream(t)
	for _, c := range []struct {
		file, only string
		fails      bool
	}{
		{"unittest.yml", "", false},
		{"long-period.yml", "", false},
		{"bad-input-series.yml", "", true},
		{"bad-promql.yml", "", true},
		{"bad-rules-syntax-test.yml", "", true},
		{"bad-rules-error-test.yml", "", true},
		{"failing.yml", "", true},
		{"at-modifier-test.yml", "", false},
		{"negative-offset-test.yml", "", false},
		{"no-test-group-interval.yml", "", false},
		{"start-time-test.yml", "", false},
		{"rules_run.yml", "correct", false},
		{"rules_run.yml", "wrong", true},
		{"rules_run.yml", "", true},
		{"rules_run_extrafields.yml", "correct", true},
		{"rules_run_no_fuzzy.yml", "", true},
		{"rules_run_fuzzy.yml", "correct", false},
		{"rules_run_fuzzy.yml", "wrong", true},
	} {
		o := options(t)
		if c.only != "" {
			o.Only = regexp.MustCompile(c.only)
		}
		errs := Run(filepath.Join(dir, c.file), o)
		require.Equal(t, c.fails, len(errs) > 0, "%s %s: %v", c.file, c.only, errs)
	}
}

const rulesWithNamespace = `namespace: shop
groups:
  - name: availability
    source_tenants: [a, b]
    rules:
      - {record: "job:up:sum", expr: "sum by (job) (up)"}
      - {alert: Down, expr: "up == 0", for: 2m, labels: {severity: page}, annotations: {summary: "{{ $labels.job }} is down"}}
---
namespace: other
groups:
  - name: availability
    rules: [{record: "one", expr: "1"}]
`

// What is not as expected is told so that one can see what is.
func TestDifferencesAreTold(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return path
	}
	write("rules.yml", rulesWithNamespace)
	errs := Run(write("test.yml", `rule_files: [r*.yml]
tests:
  - name: outage
    interval: 1m
    input_series: [{series: 'up{job="j"}', values: "1 0x5"}]
    alert_rule_test:
      - {alertname: Down, eval_time: 2m}
      - {alertname: Down, eval_time: 3m, exp_alerts: [{exp_labels: {severity: page, job: j}, exp_annotations: {summary: j is down}}]}
      - {alertname: Down, eval_time: 4m}
    promql_expr_test:
      - {expr: "job:up:sum", eval_time: 0, exp_samples: [{labels: 'job:up:sum{job="j"}', value: 1}]}
      - {expr: "one", eval_time: 1m, exp_samples: [{labels: 'one', value: 2}]}
      - {expr: "sum(", eval_time: 1m}
`), options(t))
	require.Len(t, errs, 3, "%v", errs)
	require.ErrorContains(t, errs[0], "outage: alertname: Down, time: 4m,\n    exp: nothing\n    got: labels: {alertname=\"Down\", job=\"j\", severity=\"page\"}, annotations: {summary=\"j is down\"}")
	require.ErrorContains(t, errs[1], "exp: {__name__=\"one\"} 2E+00\n    got: {__name__=\"one\"} 1E+00")
	require.ErrorContains(t, errs[2], "sum(")

	warned := ""
	errs = Run(write("none.yml", "rule_files: [nothing*]\ntests: [{alert_rule_test: [{eval_time: 1m}]}]\n"), Options{
		Parser: options(t).Parser, Warn: func(s string) { warned = s },
	})
	require.Contains(t, warned, "no rule file matches")
	require.Len(t, errs, 1)
	require.ErrorContains(t, errs[0], "test 1: an entry of alert_rule_test has no alertname")
}
