package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// grammar makes random PromQL for what a history has. What it makes has one
// right answer: where PromQL leaves open which of equal values is taken, it
// takes care that no values are equal.
type grammar struct {
	*rand.Rand
	start, end int64 // ms
}

func (g *grammar) pick(list ...string) string { return list[g.IntN(len(list))] }

// often says yes n times in ten.
func (g *grammar) often(n int) bool { return g.IntN(10) < n }

func (g *grammar) duration() string {
	return g.pick("20s", "45s", "1m", "2m", "5m", "7m30s", "10m", "20m")
}

func (g *grammar) counter() string { return g.series("requests_total", "size_bucket") }
func (g *grammar) gauge() string   { return g.series("depth") }
func (g *grammar) histogram() string {
	return g.series("latency_seconds", "own_borders", "float_histogram", "mixed")
}

func (g *grammar) selector() string {
	switch g.IntN(8) {
	case 0:
		return g.pick(`{__name__=~"depth|requests_total"`, `{__name__=~".*_total"`, `{"utf8.name"`, `{__name__!~"special|widening",__name__=~".+"`) + g.matchers(", ") + "}"
	case 1, 2:
		return g.counter()
	case 3, 4:
		return g.gauge()
	case 5, 6:
		return g.histogram()
	default:
		return g.series("special", "gauge_histogram", "target_info", "mixed", "missing")
	}
}

func (g *grammar) series(names ...string) string {
	name := g.pick(names...)
	if ms := g.matchers(""); ms != "" {
		return name + "{" + ms + "}"
	}
	return name
}

// matchers are none, one or two, behind a separator if there are any. No two
// are for one label: the labels that absent_over_time makes of them depend on
// their order, which Prometheus' storage changes.
func (g *grammar) matchers(separator string) string {
	byLabel := [][]string{
		{`job="j0"`, `job=~"j[01]"`, `job!="j2"`, `job!~"j1|j3"`, `job=~".*"`},
		{`instance="i1"`, `instance=""`, `instance!=""`, `instance=~"i.*|"`},
		{`le="1"`, `le!="+Inf"`},
		{`version="v1"`, `nothing=""`, `nothing!~"x.*"`, `"label.with.dots"="ü"`},
	}
	g.Shuffle(len(byLabel), func(i, j int) { byLabel[i], byLabel[j] = byLabel[j], byLabel[i] })
	var ms []string
	for n := range g.IntN(3) {
		ms = append(ms, g.pick(byLabel[n]...))
	}
	if len(ms) == 0 {
		return ""
	}
	return separator + strings.Join(ms, ",")
}

// modifier is an offset, a fixed time, or nothing.
func (g *grammar) modifier() string {
	switch g.IntN(8) {
	case 0:
		return " offset " + g.duration()
	case 1:
		return " offset -" + g.duration()
	case 2:
		return fmt.Sprintf(" @ %s", seconds(g.start+g.Int64N(g.end-g.start)))
	case 3:
		return g.pick(" @ start()", " @ end()", " @ end() offset 3m")
	default:
		return ""
	}
}

// over is a range of what a selector or, now and then, a whole expression gives.
func (g *grammar) over(selector string, depth int) string {
	if depth > 0 && g.often(2) {
		return fmt.Sprintf("(%s)[%s:%s]%s", g.vector(depth-1), g.duration(), g.pick("10s", "1m", "77s", ""), g.modifier())
	}
	return selector + "[" + g.duration() + "]" + g.modifier()
}

// overTime is a function of a range. Histograms are not asked for changes, nor
// compared: to Prometheus one that has the same buckets in other spans, as
// after a change of chunks, is another.
func (g *grammar) overTime(depth int) string {
	switch g.IntN(6) {
	case 0, 1:
		return g.pick("rate", "increase", "irate", "resets", "changes") + "(" + g.over(g.counter(), 0) + ")"
	case 2:
		return g.pick("rate", "increase", "delta", "sum_over_time", "avg_over_time", "count_over_time", "last_over_time", "resets", "irate", "idelta",
			"first_over_time", "ts_of_last_over_time") + "(" + g.over(g.histogram(), depth) + ")"
	case 3:
		return g.pick("quantile_over_time(0.9, ", "predict_linear(", "double_exponential_smoothing(") + g.over(g.gauge(), depth) + ")"
	case 4:
		return g.pick("delta", "deriv", "idelta", "stddev_over_time", "stdvar_over_time", "mad_over_time", "avg_over_time", "sum_over_time", "ts_of_max_over_time") + "(" + g.over(g.gauge(), depth) + ")"
	default:
		return g.pick("min_over_time", "max_over_time", "present_over_time", "absent_over_time", "count_over_time", "last_over_time", "sum_over_time", "ts_of_min_over_time") + "(" + g.over(g.selector(), depth) + ")"
	}
}

// expression is what a question asks. Histograms with different zero buckets
// are not added up: the sum depends on the order in which they come.
func (g *grammar) expression() string {
	if g.IntN(20) > 0 {
		return g.vector(1 + g.IntN(3))
	}
	wide := g.series("widening")
	if g.often(7) {
		wide = g.pick("rate", "increase", "delta", "sum_over_time", "avg_over_time", "irate", "last_over_time") + "(" + g.over(wide, 0) + ")"
	}
	return g.pick("histogram_quantile(0.7, ", "histogram_fraction(-1, 2, ", "histogram_sum(", "(", "2 * (") + wide + ")"
}

// vector is any expression of a vector but those of one metric.
func (g *grammar) vector(depth int) string {
	if depth <= 0 {
		return g.selector() + g.modifier()
	}
	switch g.IntN(10) {
	case 0:
		return g.selector() + g.modifier()
	case 1, 2:
		return g.overTime(depth - 1)
	case 3, 4, 5:
		return g.aggregation(depth - 1)
	case 6:
		return g.histogramFunction(depth - 1)
	case 7:
		return g.function(depth - 1)
	default:
		return g.binary(depth - 1)
	}
}

func (g *grammar) grouping() string {
	return g.pick("", "", " by (job)", " by (job, instance)", " by (le)", " without (instance)", " without (job)", " by (nothing)", " by (__name__)", ` by ("label.with.dots")`)
}

func (g *grammar) aggregation(depth int) string {
	inner := g.vector(depth)
	switch g.IntN(10) {
	case 0: // values that are all different
		return g.pick("topk", "bottomk") + g.grouping() + "(" + g.pick("1", "2", "7", "0") + ", " + g.gauge() + ")"
	case 1:
		return g.pick("stddev", "stdvar", "quantile"+g.grouping()+"(0.4, ") + "(" + g.gauge() + ")"
	case 2:
		return "count_values" + g.grouping() + `("value", ` + g.counter() + ")"
	case 3:
		return "limit_ratio" + g.grouping() + "(" + g.pick("0.5", "-0.3", "1") + ", " + inner + ")"
	case 4:
		return "quantile" + g.grouping() + "(" + g.pick("0.5", "0.99", "-1", "2") + ", " + inner + ")"
	default:
		return g.pick("sum", "sum", "avg", "min", "max", "count", "group") + g.grouping() + "(" + inner + ")"
	}
}

func (g *grammar) histogramFunction(depth int) string {
	h := g.histogram() + g.modifier()
	switch g.IntN(3) {
	case 0:
		h = g.pick("rate", "increase") + "(" + g.over(g.histogram(), depth) + ")"
	case 1:
		h = "sum" + g.grouping() + "(" + g.pick("rate(", "increase(", "delta(") + g.over(g.histogram(), 0) + "))"
	}
	switch g.IntN(4) {
	case 0:
		return "histogram_quantile(" + g.pick("0.5", "0.99", "0", "1", "NaN") + ", " + h + ")"
	case 1:
		return "histogram_quantile(0.8, sum by (le, job) (rate(" + g.over("size_bucket", 0) + ")))"
	case 2:
		return "histogram_fraction(" + g.pick("0, 1", "-1, 0.5", "-Inf, Inf") + ", " + h + ")"
	default:
		return g.pick("histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar") + "(" + h + ")"
	}
}

func (g *grammar) function(depth int) string {
	v := g.vector(depth)
	switch g.IntN(7) {
	case 0:
		return fmt.Sprintf(`label_replace(%s, "%s", "%s", "%s", "%s")`, v, g.pick("copy", "job", "instance"), g.pick("x-$1", "$1", "same", ""), g.pick("job", "instance", "missing"), g.pick("(.*)", "j(.)", "i1"))
	case 1:
		return `label_join(` + v + `, "joined", "-", "job", "instance")`
	case 2:
		return g.pick("absent", "scalar", "timestamp", "abs", "ceil", "floor", "sgn", "sqrt", "ln", "day_of_week", "minute") + "(" + v + ")" + g.pick("", "", " + 1")
	case 3:
		return g.pick("clamp("+v+", -5, 100)", "clamp_min("+v+", 3)", "round("+v+", 0.5)", "clamp_max("+v+", NaN)")
	case 4:
		return "vector(scalar(" + v + "))"
	case 5:
		return g.pick("sort", "sort_desc") + "(" + g.gauge() + ")"
	default:
		return "info(" + g.counter() + g.pick("", `, {version=~".+"}`, `, {version="v1"}`) + ")"
	}
}

// floats are of one type, so that an operator on several that match the same
// series meets the same error in whatever order they come.
func (g *grammar) floats(depth int) string {
	switch g.IntN(4) {
	case 0:
		return g.counter() + g.modifier()
	case 1:
		return g.gauge() + g.modifier()
	case 2:
		return "count" + g.grouping() + "(" + g.vector(depth) + ")"
	default:
		return "sum" + g.grouping() + "(rate(" + g.over(g.counter(), 0) + "))"
	}
}

func (g *grammar) binary(depth int) string {
	left, right := g.vector(depth), g.vector(depth)
	switch g.IntN(7) {
	case 0: // one to one, surely
		return g.gauge() + " " + g.pick("+", "-", "*", "/", "%", "^", ">", "<= bool", "!=", "atan2") + " " + g.pick("", "on (job, instance) ", "ignoring (le) ") + g.series("requests_total")
	case 1:
		return g.pick("depth", "requests_total") + g.pick(" * on (job, instance) group_left (version) target_info", " * on (job) group_left count by (job) (requests_total)",
			" / ignoring (instance) group_left sum by (job) (depth)", " + on (job, instance) group_right target_info")
	case 2:
		return "(" + left + ") " + g.pick("and", "or", "unless") + " " + g.pick("", "on (job) ", "ignoring (instance, le) ") + "(" + right + ")"
	case 3:
		return "(" + left + ") " + g.pick("+ 1", "* -2", "> 0", "== bool 0", "% 7", "/ 0", "^ 2")
	case 4:
		return g.pick("-", "1 - ", "2 ^ ") + "(" + left + ")"
	case 5:
		return g.pick("latency_seconds", "own_borders", "float_histogram") + g.modifier() + g.pick(" + ", " - ", " * ", " / ") +
			g.pick("latency_seconds", "own_borders", "on (job) float_histogram", "on (job, instance) depth", "2") + g.modifier()
	default: // often an error, and then the same one
		return "(" + g.floats(depth) + ") " + g.pick("+", "-", "*", "/", ">", "== bool", "<") + " " + g.pick("", "on (job) ", "on (job) group_left ", "ignoring (le) ") + "(" + g.floats(depth) + ")"
	}
}
