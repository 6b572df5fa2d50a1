package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// query is one request of the query API.
type query struct {
	name   string
	path   string // below /api/v1
	params url.Values
}

// quantileQuery is the one that dashboards are known for; it is shown on its own.
const quantileQuery = `histogram_quantile(0.99, sum by (le, app) (rate(http_request_duration_seconds_bucket[5m])))`

// rangeQueries run over the whole load, a step for each sample.
var rangeQueries = []string{
	quantileQuery,
	`sum by (app) (rate(http_request_duration_seconds_count[5m]))`,
	`sum by (namespace) (rate(http_request_duration_seconds_count{path="/api/v1/orders"}[5m]))`,
	`sum(rate(http_request_duration_seconds_sum[5m])) by (app) / sum(rate(http_request_duration_seconds_count[5m])) by (app)`,
	`sum by (app) (rate(http_request_duration_seconds_count{pod=~"checkout-.+|search-.+",path!~"/health.*"}[2m]))`,
	`topk(10, sum by (pod) (rate(container_cpu_usage_seconds_total[5m])))`,
	`sum by (namespace) (container_memory_working_set_bytes)`,
	`container_memory_working_set_bytes{namespace="team-payments-prod"}`,
	`max_over_time(container_memory_working_set_bytes{app=~"|.+",namespace="team-commerce-prod"}[10m])`,
	`1 - avg by (node) (rate(node_cpu_seconds_total{mode="idle"}[5m]))`,
	`avg by (app) (avg_over_time(go_goroutines[5m]))`,
	`sum by (phase) (kube_pod_status_phase)`,
	`sum by (app) (process_resident_memory_bytes * on (pod) group_left (uid) kube_pod_info)`,
	`rate(container_network_receive_bytes_total{node="worker-0-000.example.internal"}[5m])`,
}

// instantQueries run at the end of the load.
var instantQueries = []string{
	quantileQuery,
	`topk(10, sum by (pod) (rate(container_cpu_usage_seconds_total[5m])))`,
	`count by (__name__) ({__name__=~"go_.+"})`,
	`process_resident_memory_bytes`,
	`sum by (app, path) (increase(http_request_duration_seconds_count[30m]))`,
}

// queries lists all queries for a load.
func queries(spec *Spec) []query {
	start, end := unix(spec.First()), unix(spec.Last())
	var out []query
	for _, expr := range rangeQueries {
		out = append(out, query{"range " + expr, "/query_range", url.Values{
			"query": {expr}, "start": {start}, "end": {end}, "step": {strconv.Itoa(int(spec.Step.Seconds()))},
		}})
	}
	for _, expr := range instantQueries {
		out = append(out, query{"instant " + expr, "/query", url.Values{"query": {expr}, "time": {end}}})
	}
	add := func(name, path, match string) {
		v := url.Values{"start": {start}, "end": {end}}
		if match != "" {
			v.Set("match[]", match)
		}
		out = append(out, query{name, path, v})
	}
	add("labels", "/labels", "")
	add("values of pod", "/label/pod/values", "")
	add("values of __name__ where app is checkout", "/label/__name__/values", `{app="checkout"}`)
	add("series go_goroutines", "/series", `go_goroutines`)
	return out
}

func unix(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// Latency is what one query took in one state of the server.
type Latency struct {
	State  string  `json:"state"` // memory, cold or warm
	Query  string  `json:"query"`
	Median float64 `json:"median_ms"`
	Size   int     `json:"size"` // series, or names, in the answer
}

// runQuery measures queries over what is in memory and, for a server that
// keeps its data in object storage, over blocks: cold, right after a start
// with nothing but the store, and warm. The operating system's cache of files
// is warm in all of them.
func runQuery(ctx context.Context, b *Bench) error {
	return b.each(ctx, part{"query", b.spec(b.scaled(50_000, 1000), 160), anyTarget, queryTrial})
}

func queryTrial(ctx context.Context, t *trial) error {
	if _, err := t.send(ctx); err != nil {
		return err
	}
	t.verify(ctx, "after the load")
	profiled := t.profile(ctx, "query")
	err := t.ask(ctx, "memory", t.Runs)
	profiled()
	if err != nil || !t.Bucket || !t.Own() || t.Flush == "" {
		return err
	}
	if err := t.FlushAll(ctx); err != nil {
		return err
	}
	if err := t.askCold(ctx); err != nil {
		return err
	}
	t.verify(ctx, "from blocks alone")
	return t.ask(ctx, "warm", t.Runs)
}

// ask runs every query runs times and adds the medians.
func (t *trial) ask(ctx context.Context, state string, runs int) error {
	all := queries(&t.load.Spec)
	took := make([][]time.Duration, len(all))
	sizes := make([]int, len(all))
	before, err := cpuTime(t.PID)
	if err != nil {
		return err
	}
	for i := range all {
		for range runs {
			d, size, err := t.time(ctx, &all[i])
			if err != nil {
				return err
			}
			took[i], sizes[i] = append(took[i], d), size
		}
	}
	after, err := cpuTime(t.PID)
	if err != nil {
		return err
	}
	t.addLatencies(state, all, took, sizes)
	t.detail("CPU of one round, "+state, "s", (after-before).Seconds()/float64(runs))
	return nil
}

// coldStarts is how often the server is started anew for the cold figures.
const coldStarts = 3

// askCold runs the queries once after each of a few starts. In one round a
// query profits from what those before it have fetched, as it does in life.
func (t *trial) askCold(ctx context.Context) error {
	all := queries(&t.load.Spec)
	took := make([][]time.Duration, len(all))
	sizes := make([]int, len(all))
	for range min(coldStarts, t.Runs) {
		if err := t.Renew(ctx); err != nil {
			return err
		}
		for i := range all {
			d, size, err := t.time(ctx, &all[i])
			if err != nil {
				return err
			}
			took[i], sizes[i] = append(took[i], d), size
		}
	}
	t.addLatencies("cold", all, took, sizes)
	return nil
}

// time asks one query and returns the time to the answer's last byte, and how
// many series or names are in it.
func (t *trial) time(ctx context.Context, q *query) (time.Duration, int, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	start := time.Now()
	status, body, err := t.get(ctx, t.Query+"/api/v1"+q.path+"?"+q.params.Encode(), t.load.TenantName(0))
	took := time.Since(start)
	if err != nil {
		return 0, 0, fmt.Errorf("query %s: %w", q.name, err)
	}
	if status != http.StatusOK {
		return 0, 0, fmt.Errorf("query %s: status %d: %.300s", q.name, status, body)
	}
	size, err := answerSize(body)
	if err != nil {
		return 0, 0, fmt.Errorf("query %s: %w", q.name, err)
	}
	return took, size, nil
}

// answerSize counts the series or names in an answer.
func answerSize(body []byte) (int, error) {
	var answer struct{ Data json.RawMessage }
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, err
	}
	var list []json.RawMessage
	if json.Unmarshal(answer.Data, &list) == nil {
		return len(list), nil
	}
	var data struct{ Result []json.RawMessage }
	if err := json.Unmarshal(answer.Data, &data); err != nil {
		return 0, err
	}
	return len(data.Result), nil
}

func (t *trial) addLatencies(state string, all []query, took [][]time.Duration, sizes []int) {
	sum := 0.0
	for i := range all {
		slices.Sort(took[i])
		ms := quantile(took[i], 0.5).Seconds() * 1e3
		sum += ms
		t.result.Latencies = append(t.result.Latencies, Latency{state, all[i].name, ms, sizes[i]})
		if sizes[i] == 0 {
			t.result.note("query, %s: no answer to %s", state, all[i].name)
		}
	}
	t.add(fmt.Sprintf("%d queries, sum of medians, %s", len(all), state), "ms", sum)
	t.detail("99th percentile over buckets, "+state, "ms", t.result.Latencies[len(t.result.Latencies)-len(all)].Median)
}
