package rulefile_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/template"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/budget"
	"github.com/hearth-metrics/hearth/ruler/rulefile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var promQL = parser.NewParser(parser.Options{})

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// randomGroup is some group that is right.
func randomGroup(r *rand.Rand, name string) rulefile.Group {
	some := func(all ...string) string { return all[r.IntN(len(all))] }
	texts := func() map[string]string {
		out := map[string]string{}
		for range r.IntN(3) {
			out[some("severity", "team", "über", "a.b")] = some("page", "{{ $value }}", "a: 'b' \"c\"\n- d", "#", "{{ $labels.job | toUpper }}", "é", " x ", "1", "true")
		}
		return out
	}
	g := rulefile.Group{RuleGroup: rulefmt.RuleGroup{Name: name, Interval: model.Duration(r.IntN(3)) * model.Duration(time.Minute), Limit: r.IntN(3)}}
	if r.IntN(2) == 0 {
		offset := model.Duration(r.IntN(100)) * model.Duration(time.Second)
		g.QueryOffset, g.Labels, g.SourceTenants = &offset, map[string]string{"group": some("x", "null")}, []string{"a", "b"}
	}
	for i := range 1 + r.IntN(5) {
		rule := rulefmt.Rule{Expr: some("up == 0", "sum by (job) (rate(x[5m]))", `{"a.b", c=~"d\\.e"} # why`, "up\n  unless\n  up > 1")}
		if r.IntN(2) == 0 {
			rule.Alert, rule.For, rule.Annotations = fmt.Sprint("Alert", i), model.Duration(r.IntN(600))*model.Duration(time.Second), texts()
			rule.KeepFiringFor = model.Duration(r.IntN(600)) * model.Duration(time.Second)
		} else {
			rule.Record = some("job:up:sum", "x")
		}
		rule.Labels = texts()
		g.Rules = append(g.Rules, rule)
	}
	return g
}

// What is written is read again as it was, as one group, as a file of several
// namespaces, and by Prometheus, whose file it is too.
func TestGroupsAreReadAsTheyWereWritten(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var file strings.Builder
		want := map[string][]rulefile.Group{}
		for n := range 1 + r.IntN(3) {
			ns := fmt.Sprint("ns", n)
			for i := range 1 + r.IntN(3) {
				g := randomGroup(r, fmt.Sprint("g", i))
				want[ns] = append(want[ns], g)

				text, err := yaml.Marshal(g)
				require.NoError(t, err)
				got, err := rulefile.ParseGroup(text, promQL)
				require.NoError(t, err, "%s", text)
				require.True(t, rulefile.Equal(&g, &got), "%s", text)

				g.SourceTenants = nil
				plain, err := yaml.Marshal(map[string]any{"groups": []rulefile.Group{g}})
				require.NoError(t, err)
				_, errs := rulefmt.Parse(plain, false, model.UTF8Validation, promQL, slog.New(slog.DiscardHandler))
				require.Empty(t, errs, "%s", plain)
			}
			text, err := yaml.Marshal(map[string]any{"namespace": ns, "groups": want[ns]})
			require.NoError(t, err)
			fmt.Fprintf(&file, "---\n%s", text)
		}
		got, err := rulefile.Read([]string{write(t, "rules.yml", file.String())}, promQL)
		require.NoError(t, err, "%s", file.String())
		require.Len(t, got, len(want))
		for ns, groups := range want {
			require.Len(t, got[ns], len(groups))
			for i := range groups {
				require.True(t, rulefile.Equal(&groups[i], &got[ns][i]), "%s", file.String())
			}
		}
	}
}

// A file that names no namespace has its own name's; of a folder all rule files
// are read.
func TestNamespacesOfFiles(t *testing.T) {
	const group = "groups: [{name: g, rules: [{record: a, expr: up}]}]"
	path := write(t, "first.rules", group)
	dir := filepath.Dir(path)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", "second.yml"), []byte(group+"\n---\nnamespace: third\n"+group), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "README.md"), []byte("{"), 0o600))
	got, err := rulefile.Read([]string{dir}, promQL)
	require.NoError(t, err)
	require.Len(t, got, 3)
	for _, ns := range []string{"first", "second", "third"} {
		require.Len(t, got[ns], 1, ns)
	}
	_, err = rulefile.Read([]string{path, path}, promQL)
	require.ErrorContains(t, err, `the group "g" is in the namespace "first" already`)
	_, err = rulefile.Read([]string{filepath.Dir(write(t, "x.txt", ""))}, promQL)
	require.ErrorContains(t, err, "there is no rule file")
}

// What is wrong in a file is told with the file, the group, the rule and the line.
func TestProblemsHaveTheirLine(t *testing.T) {
	const head = "groups:\n- name: g\n  rules:\n"
	for text, want := range map[string]string{
		"groups:\n- name: g\n  rule: []\n": "line 3: field rule not found",
		"groups: [\n":                      "line 1:",
		"groups:\n- name: g\n  interval: 5 minutes\n  rules: []\n":                                          "unknown unit",
		head + "  - record: a\n    expr: sum(\n":                                                            `group "g": rule 1, "a": 5:11: could not parse expression`,
		head + "  - {record: a, expr: up}\n  - record: a b\n    expr: up\n    for: 1m\n":                    `rule 2, "a b": 5:13: invalid field 'for' in recording rule`,
		head + "  - alert: A\n    expr: up\n    annotations:\n      x: '{{ $y }}'\n":                        `rule 1, "A": annotation "x": template: __alert_A:1: undefined variable "$y"`,
		head + "  - alert: A\n    expr: up\n    annotations:\n      x: '{{ range 1000000000 }}{{ end }}'\n": `rule 1, "A": 4:12: the template of "x": it would take too much`,
		head + "  - {record: a, expr: up}\n- name: g\n  rules: [{record: a, expr: up}]\n":                   "the name is repeated in the same namespace",
		head + "  - {record: a, expr: '" + strings.Repeat("1+", 8200) + "1'}\n":                             "rule 1 has a text of 16401 bytes, the limit is 16384",
		head + strings.Repeat("  - {record: a, expr: (}\n", 15):                                             "and 5 more",
	} {
		path := write(t, "rules.yml", text)
		_, err := rulefile.Read([]string{path}, promQL)
		require.ErrorContains(t, err, want, "%.200s", text)
		require.ErrorContains(t, err, path)
	}
}

func TestDuplicates(t *testing.T) {
	g, err := rulefile.ParseGroup([]byte("name: g\nrules: [{record: a, expr: up}, {record: a, expr: up, labels: {x: y}}, {alert: a, expr: up}, {record: a, expr: up, labels: {x: y}}, {record: a, expr: up}]"), promQL)
	require.NoError(t, err)
	require.Equal(t, []rulefile.Series{{Name: "a", Labels: labels.EmptyLabels()}, {Name: "a", Labels: labels.FromStrings("x", "y")}}, rulefile.Duplicates([]rulefile.Group{g}))
}

// everyday are templates as people write them, and what is rare in them.
var everyday = []string{
	`{{ $labels.instance }} of {{ $labels.job }} is down`,
	`{{ $value }} {{ $value | humanize }} {{ humanize1024 $value }} {{ $value | humanizePercentage }} {{ humanizeDuration $value }}`,
	`{{ printf "%.2f" $value }} {{ printf "%s-%d" $labels.job 3 }} {{ $value | printf "%08.3f" }}`,
	`{{ with query "sum(up)" }}{{ . | first | value | humanize }}{{ end }}`,
	`{{ with printf "up{job='%s'}" $labels.job | query }}{{ . | first | label "instance" }}{{ else }}none{{ end }}`,
	`{{ range $i, $s := query "up" | sortByLabel "instance" }}{{ if $i }}, {{ end }}{{ .Labels.instance }}={{ .Value }}{{ end }}`,
	`{{ range query "none" }}{{ . }}{{ else }}nothing{{ end }}`,
	`{{ query "none" | first }}`,
	`{{ query "broken" }}`,
	`{{ if eq $labels.job "a" }}A{{ else if and (gt $value 1.0) (not (eq $labels.job "x")) }}B{{ else }}C{{ end }}`,
	`{{ reReplaceAll "([a-z]+)-(.*)" "$2/$1" $labels.instance }} {{ match "h.*" $labels.instance }} {{ $labels.instance | reReplaceAll ":.*" "" | toUpper | title }}`,
	`{{ define "d" }}{{ .arg0 }}+{{ .arg1 }}{{ end }}{{ template "d" (args 1 $labels.job) }}{{ template "e" . }}{{ block "e" . }}{{ .Labels.job }}{{ end }}`,
	`{{- /* a comment */ -}} a  {{- " b " -}}  c {{ "{{" }} {{ "}}" | printf "%q" }} {{ 'x' }} {{ -1 }} {{ 1e3 }} {{ true }} {{ nil | print }}`,
	"{{ $x := 0 }}{{ range $i := 5 }}{{ if eq $i 3 }}{{ break }}{{ end }}{{ if eq $i 1 }}{{ continue }}{{ end }}{{ $x = $i }}{{ $x }}{{ end }}\n{{ $x }}",
	`{{ len $labels }} {{ index $labels "job" }} {{ slice $labels.instance 0 4 }} {{ $labels.none }} {{ html "<a>" }} {{ "a b" | urlquery }} {{ js "'" }} {{ safeHtml "<b>" }}`,
	`{{ (query "up" | first).Labels.instance }} {{ ((query "up") | first | value) }} {{ print "a" 1 2 "b" }}{{ println $value }}`,
	`{{ $externalURL }} {{ externalURL }} {{ pathPrefix }} {{ $externalLabels }} {{ graphLink "up" }} {{ tableLink "up" }} {{ now }} {{ (now | toTime).Year }} {{ stripPort "a:1" }} {{ stripDomain "a.b:1" }} {{ parseDuration "1h" }} {{ urlQueryEscape "a b" }}`,
	`{{ . }} {{ $ }} {{ .Labels.job }} {{ $.Value }} {{ .Nothing }}`,
	`plain`, `{{`, `{{ $labels.job `, `{{ end }}`, `{{ unknown 1 }}`,
}

func answer(_ context.Context, q string, _ time.Time) (promql.Vector, error) {
	switch q {
	case "none":
		return nil, nil
	case "broken":
		return nil, fmt.Errorf("cannot be")
	default:
		return promql.Vector{
			{Metric: labels.FromStrings("instance", "two", "job", "j"), F: 2},
			{Metric: labels.FromStrings("instance", "one", "job", "j"), F: 1},
		}, nil
	}
}

// A template gives what it gives in Prometheus, or fails where it does there.
func TestTemplatesGiveWhatTheyGiveInPrometheus(t *testing.T) {
	u, err := url.Parse("http://example.com/prefix")
	require.NoError(t, err)
	at := time.Unix(1700000000, 123e6)
	alert := map[string]string{"__name__": "up", "instance": "host-1.example.com:9100", "job": "j"}
	for _, text := range everyday {
		for _, value := range []float64{0, 1234.5678, -1, math.NaN(), math.Inf(1)} {
			sample := promql.Sample{F: value}
			data := template.AlertTemplateData(alert, map[string]string{}, u.String(), sample)
			defs := "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"
			want, wantErr := template.NewTemplateExpander(t.Context(), defs+text, "__alert_A", data, model.TimeFromUnixNano(at.UnixNano()), answer, u, nil).Expand()

			e := &rulefile.Expansion{Budget: budget.New(), Query: answer, At: at, ExternalURL: u}
			tpl, err := rulefile.ParseTemplate("A", text)
			got := ""
			if err == nil {
				got, err = e.Expand(t.Context(), tpl, alert, sample)
			}
			require.Equal(t, wantErr == nil, err == nil, "%s: %v, want %v", text, err, wantErr)
			require.Equal(t, want, got, text)
		}
	}
}

// FuzzTemplates looks for templates that mean something else with steps in them.
func FuzzTemplates(f *testing.F) {
	for _, text := range everyday {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 {
			return
		}
		e := &rulefile.Expansion{Budget: budget.New(), Query: answer, ExternalURL: &url.URL{}}
		tpl, err := rulefile.ParseTemplate("A", text)
		if err != nil {
			return
		}
		alert := map[string]string{"job": "j"}
		got, err := e.Expand(t.Context(), tpl, alert, promql.Sample{F: 1})
		if err != nil || strings.Contains(got, "0xc0") { // what is stopped here may not be run there; an address is new each time
			return
		}
		data := template.AlertTemplateData(alert, map[string]string{}, "", promql.Sample{F: 1})
		defs := "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"
		want, err := template.NewTemplateExpander(t.Context(), defs+text, "__alert_A", data, 0, answer, &url.URL{}, nil).Expand()
		if err != nil || want != got {
			t.Fatalf("%q: got %q, want %q, %v", text, got, want, err)
		}
	})
}
