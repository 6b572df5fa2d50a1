package ruler

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Bodies that are made to hurt are refused, in bounded time and memory.
func TestHostileGroups(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	n := maxBody * 9 / 10
	rule := func(expr string) string { return "name: x\nrules: [{record: a, expr: '" + expr + "'}]" }
	for name, body := range map[string]string{
		"parentheses":  rule(strings.Repeat("(", n/2) + "1" + strings.Repeat(")", n/2)),
		"left open":    rule(strings.Repeat("(", n)),
		"signs":        rule(strings.Repeat("-", n) + "1"),
		"sums":         rule(strings.Repeat("sum(", n/5) + "1" + strings.Repeat(")", n/5)),
		"terms":        rule(strings.Repeat("1+", n/2) + "1"),
		"subqueries":   rule("up" + strings.Repeat("[1m:1m]", n/7)),
		"brackets":     strings.Repeat("[", n),
		"maps":         strings.Repeat("{a: ", n/4),
		"indentation":  strings.Repeat("- ", n/2),
		"aliases":      "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nname: *e",
		"one alias":    "name: x\nrules:\n- &a {alert: a, expr: up, annotations: {a: '{{" + strings.Repeat("(", n/2) + "'}}\n" + strings.Repeat("- *a\n", n/20),
		"template":     "name: x\nrules: [{alert: a, expr: up, annotations: {a: '" + strings.Repeat("{{if 1}}", n/8) + "'}}]",
		"template end": "name: x\nrules: [{alert: a, expr: up, annotations: {a: '{{ " + strings.Repeat("(", n) + "'}}]",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		status, text := ask(t, r, "t", "POST", "/api/v1/rules/ns", body)
		runtime.ReadMemStats(&after)
		t.Logf("%s: %d in %s, %d MiB: %.100s", name, status, time.Since(began), (after.TotalAlloc-before.TotalAlloc)>>20, text)
		require.Equal(t, 400, status, "%s: %.200s", name, text)
	}
}
