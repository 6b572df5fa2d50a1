package e2e

import (
	"net/url"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

// selectors are ways to ask for series: most match some of every tenant's,
// some can only match what is not there, some are not allowed everywhere.
var selectors = []string{
	`{__name__!=""}`, `{__name__=~".+"}`, `{__name__=~".*"}`, `{x=""}`, `{job!="api"}`, `{job=~"api|db"}`, `{job=~"api|"}`,
	`{__name__=~".*",job!="api"}`, `{__name__!~"mark_.*"}`, `{__name__!~".+"}`, `load_total`, `load_total{instance!="a"}`,
	`load_total{instance!~"a"}`, `load_total{instance=""}`, `load_total{nothing!="x"}`, `load_total{instance=~"a|b|c"}`,
	`depth{"dotted.name"="x"}`, `depth{"dotted.name"!=""}`, `{__name__=~"mark_.*"}`, `{of=~".+"}`, `{owner!=""}`, `nothing`,
	`{__name__="load_total",__name__!="depth"}`,
}

// expressions are asked at one time and over a range.
func expressions() []string {
	list := []string{
		`sum(rate(load_total[1m]))`, `sum by (instance) (load_total)`, `count by (__name__) ({__name__!=""})`, `absent(load_total)`, `absent(nothing)`,
		`absent_over_time(load_total[1m])`, `count_values("v", load_total)`, `topk(1, load_total)`, `bottomk(2, {job="api"})`, `group({__name__=~".+"})`,
		`label_replace(depth, "copy", "$1", "job", "(.*)")`, `histogram_quantile(0.5, rate(latency_seconds[1m]))`, `histogram_count(latency_seconds)`,
		`load_total / on (job) group_left (owner) target_info`, `info(load_total)`, `info(load_total, {owner=~".+"})`, `load_total unless on (job) depth`,
		`{__name__=~"load.*|mark.*"}[1m:20s]`, `max_over_time(depth[5m] offset 1m)`, `load_total @ start()`, `vector(1) or {__name__!=""}`, `scalar(sum(load_total))`,
		`timestamp(load_total)`, `sort_desc(load_total)`, `count({__name__=~".+"})`, `sum without (job) (depth)`, `count(limitk(2, {__name__!=""}))`, `sum(`,
	}
	return append(list, selectors...)
}

// questions are all that a tenant can ask about the settled samples.
func questions(start int64) (out []question) {
	add := func(path string, params ...string) {
		q := url.Values{}
		for i := 0; i < len(params); i += 2 {
			q.Add(params[i], params[i+1])
		}
		out = append(out, question{path, q})
	}
	from, to := seconds(start), seconds(start+settledEnd)
	for _, x := range expressions() {
		add("query", "query", x, "time", to)
		add("query_range", "query", x, "start", from, "end", to, "step", "30")
		add("query_exemplars", "query", x, "start", from, "end", to)
	}
	add("query", "query", `{__name__=~".+"}[10m]`, "time", to)
	for _, s := range selectors {
		add("query", "query", "count("+s+")", "time", to)
		add("series", "match[]", s, "start", from, "end", to)
		add("series", "match[]", s, "match[]", `depth`)
		add("labels", "match[]", s, "start", from, "end", to)
		for _, name := range []string{"__name__", "instance", "of"} {
			add("label/"+name+"/values", "match[]", s, "start", from, "end", to)
		}
	}
	for _, limit := range []string{"", "1", "3", "1000", "x"} {
		add("labels", "limit", limit)
		if limit == "1" || limit == "3" { // which values these are a head leaves to chance
			continue
		}
		add("label/__name__/values", "limit", limit)
		add("label/of/values", "limit", limit)
		add("label/owner/values", "limit", limit)
		add("label/U__dotted_2e_name/values", "limit", limit)
		add("label/nothing/values", "limit", limit)
	}
	add("label/not-U__/values")
	add("series", "match[]", "{")
	add("series")
	return out
}

// matcherSets are what remote read is asked for. There, unlike in PromQL, a
// selector may match what has no labels at all.
func matcherSets(t testing.TB) (sets [][]*labels.Matcher) {
	for _, s := range selectors {
		if ms, err := promParser.ParseMetricSelector(s); err == nil {
			sets = append(sets, ms)
		}
	}
	for _, kind := range []labels.MatchType{labels.MatchEqual, labels.MatchNotEqual, labels.MatchRegexp, labels.MatchNotRegexp} {
		for _, value := range []string{"", "a", ".*", ".+", "a|b", "a|"} {
			m, err := labels.NewMatcher(kind, "instance", value)
			require.NoError(t, err)
			sets = append(sets, []*labels.Matcher{m})
		}
	}
	return sets
}
