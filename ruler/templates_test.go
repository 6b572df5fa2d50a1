package ruler

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/budget"
	"github.com/hearth-metrics/hearth/ruler/rulefile"
)

// hostileTemplates take what they can get.
var hostileTemplates = map[string]string{
	"range":      `{{ range 1000000000 }}{{ range 1000000000 }}{{ end }}{{ end }}`,
	"output":     `{{ range 1000000000 }}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{{ end }}`,
	"width":      `{{ printf "%1000000000d" 1 }}`,
	"recursion":  `{{ template "r" . }}{{ define "r" }}{{ template "r" . }}{{ end }}`,
	"queries":    `{{ range 1000000000 }}{{ query "vector(1)" }}{{ end }}`,
	"growth":     `{{ $x := "x" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}`,
	"structure":  `{{ $x := args 1 }}{{ range 60 }}{{ $x = args $x $x $x }}{{ end }}{{ $x }}`,
	"escape":     `{{ $x := "x" }}{{ range 19 }}{{ $x = print $x $x }}{{ end }}{{ range 1000000 }}{{ $x | html }}{{ end }}`,
	"work":       `{{ $x := "x" }}{{ range 19 }}{{ $x = print $x $x }}{{ end }}{{ range 1000000 }}{{ if eq (toUpper $x) $x }}{{ end }}{{ end }}`,
	"expression": `{{ $x := "(xxxxxxxxxx){1000}" }}{{ range 1000000000 }}{{ if match $x "y" }}{{ end }}{{ end }}`,
	"replace":    `{{ $x := "x" }}{{ range 15 }}{{ $x = print $x $x }}{{ end }}{{ $y := reReplaceAll "" $x $x }}`,
}

// A template asks under the tenant's limits, and for a bounded number of series.
func TestQueriesInTemplatesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		post(t, r, "t", "ns", alertWith(`{{ range query "label_replace(vector(1), 'a', 'b', '', '')" }}{{ .Value }}{{ end }}`))
		post(t, r, "many", "ns", alertWith(`{{ len (query "{__name__=~'m.*'}") }}`))
		for i := range maxSamples + 1 {
			w.write("many", fmt.Sprintf("m{i=\"%d\"}", i), 1)
		}
		for range 8 {
			w.write("t", `up{job="j"}`, 1)
			w.write("many", `up{job="j"}`, 1)
			time.Sleep(15 * time.Second)
			synctest.Wait()
		}
		for _, a := range w.takeTold() {
			require.Equal(t, "1", a.Annotations.Get("a"))
		}
		_, body := ask(t, r, "many", "GET", "/prometheus/api/v1/rules", "")
		require.Contains(t, body, "a query gives 10001 series, the limit in a template is 10000")
	})
}

func alertWith(text string) string {
	return fmt.Sprintf("name: a\ninterval: 1m\nrules: [{alert: A, expr: up, annotations: {a: %q}}]", text)
}

// What loops or blows up whatever the data is refused when it is sent.
func TestHostileTemplatesAreRefused(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	for name, text := range hostileTemplates {
		status, body := ask(t, r, "t", "POST", "/api/v1/rules/ns", alertWith(text))
		require.Equal(t, 400, status, name)
		require.Contains(t, body, `rule 1, "A": 3:17: the template of "a": it would take too much`, name)
	}
}

// What does so with some data only fails the rule, with an error that says so.
// Its other rules and other tenants go on, and memory is bounded.
func TestHostileTemplatesAreStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		const withData = "{{ if lt $value 1.0 }}{{ slice $value 1 }}{{ end }}"
		const good = "name: g\ninterval: 15s\nrules: [{record: 'up:recorded', expr: up}, {alert: Good, expr: up, annotations: {a: 'up is {{ $value }}'}}]"
		for name, text := range hostileTemplates {
			post(t, r, asID(name), "ns", alertWith(withData+text))
			post(t, r, asID(name), "ns", strings.Replace(good, "15s", "1m", 1))
		}
		post(t, r, "t", "ns", good)

		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began, peak := time.Now(), uint64(0)
		for range 12 {
			for name := range hostileTemplates {
				w.write(asID(name), `up{job="j"}`, 1)
			}
			w.write("t", `up{job="j"}`, 1)
			time.Sleep(15 * time.Second)
			synctest.Wait()
			runtime.ReadMemStats(&after)
			peak = max(peak, after.Sys)
		}
		t.Logf("took %d MiB from the system, allocated %d MiB in all", (peak-before.Sys)>>20, (after.TotalAlloc-before.TotalAlloc)>>20)
		require.Less(t, (peak-before.Sys)>>20, uint64(512))

		for name := range hostileTemplates {
			_, body := ask(t, r, asID(name), "GET", "/prometheus/api/v1/rules?rule_group[]=a", "")
			require.Contains(t, body, `"health":"err"`, name)
			require.Contains(t, body, "it would take too much", name)
			require.Contains(t, body, "(err-rule-template)", name)
			require.Contains(t, body, withData, "the text is shown as it was written")
			require.Len(t, history(t, w.db(asID(name)), "up:recorded", began, time.Now())[`{__name__="up:recorded", job="j"}`], 3, name)
		}
		require.Len(t, history(t, w.db("t"), "up:recorded", began, time.Now())[`{__name__="up:recorded", job="j"}`], 12)
		for _, a := range w.takeTold() {
			require.Equal(t, labels.FromStrings("a", "up is 1"), a.Annotations)
		}
	})
}

// A tenant whose templates took too much has its rules back when they do not.
func TestTemplatesGoOnWhenTheyTakeLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		post(t, r, "t", "ns", alertWith(`{{ if gt $value 1.0 }}{{ range 1000000000 }}{{ end }}{{ end }}fine`))
		health := func(v float64) string {
			feed(w, 3*time.Minute, v)
			_, body := ask(t, r, "t", "GET", "/prometheus/api/v1/rules", "")
			var got struct {
				Data struct {
					Groups []struct{ Rules []struct{ Health string } }
				}
			}
			require.NoError(t, json.Unmarshal([]byte(body), &got))
			return got.Data.Groups[0].Rules[0].Health
		}
		require.Equal(t, "ok", health(1))
		require.NotEmpty(t, w.takeTold())
		require.Equal(t, "err", health(2))
		for _, a := range w.takeTold() {
			require.False(t, a.resolved, "it fires, but what it says is not known")
		}
		require.Equal(t, "ok", health(1))
	})
}

// A label of an alert may be a template: of the rule, or of its group. One that
// comes to nothing is no label, of the series that are recorded neither, and
// such an alert goes on where it was when it moves, too.
func TestTemplatesOfLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.join("one")
		began := time.Now()
		const group = `name: down
interval: 1m
labels: {team: "{{ $labels.job }}-team"}
rules:
  - {record: r, expr: up}
  - {alert: A, expr: "up == 0", for: 4m, labels: {x: "{{ if gt $value 0.0 }}x{{ end }}"}}
  - {alert: A, expr: "up == 0", for: 4m, labels: {x: "{{ $labels.job | toUpper }}"}}
`
		post(t, r, "t", "ns", group)
		feed(w, 3*time.Minute, 0)
		w.leave("one")
		r = w.join("two")
		feed(w, 3*time.Minute, 0)
		got := map[string]bool{}
		for _, a := range w.takeTold() {
			got[a.Labels.String()] = true
		}
		require.Equal(t, map[string]bool{`{alertname="A", job="j", team="j-team"}`: true, `{alertname="A", job="j", team="j-team", x="J"}`: true}, got)
		for series := range history(t, w.db("t"), `{__name__=~"ALERTS.*"}`, began, time.Now()) {
			require.NotContains(t, series, "{{")
		}
		require.Len(t, history(t, w.db("t"), `r{team="{{ $labels.job }}-team"}`, began, time.Now()), 1, "of a series it is a text")
		_, body := ask(t, r, "t", "GET", "/prometheus/api/v1/rules", "")
		require.Contains(t, body, `"x":"{{ $labels.job | toUpper }}"`)
		require.NotContains(t, body, "query $labels")
	})
}

// BenchmarkHostileTemplates shows what a template takes until it is stopped.
func BenchmarkHostileTemplates(b *testing.B) {
	for name, text := range hostileTemplates {
		b.Run(name, func(b *testing.B) {
			t, err := rulefile.ParseTemplate("A", text)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				x := &rulefile.Expansion{Budget: budget.New(), Query: noData, ExternalURL: &url.URL{}}
				_, err := x.Expand(b.Context(), t, map[string]string{}, promql.Sample{})
				require.ErrorIs(b, err, budget.ErrTooMuch)
			}
		})
	}
}

func noData(context.Context, string, time.Time) (promql.Vector, error) { return nil, nil }
