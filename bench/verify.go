package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// verified are metrics whose series and samples are counted: enough to notice
// loss anywhere, few enough for any server's query limits.
var verified = []string{"go_goroutines", "kube_pod_status_phase", "http_request_duration_seconds_count"}

// verify asks the server how much of the load it has, for a while: some servers
// show at once what they have acknowledged, some after seconds. One that has
// less gets a note: its figures are not those of the load.
func (t *trial) verify(ctx context.Context, when string) {
	tenant := 0
	if t.load.Tenants > 0 {
		tenant = t.load.Tenants - 1
	}
	deadline := time.Now().Add(t.Wait)
	for _, metric := range verified {
		want := t.load.Families[metric]
		if want == 0 {
			continue
		}
		window := time.Duration(t.load.Samples) * t.load.Step
		t.expect(ctx, deadline, tenant, when, float64(want), fmt.Sprintf("count(%s)", metric))
		t.expect(ctx, deadline, tenant, when, float64(want*t.load.Samples),
			fmt.Sprintf("sum(count_over_time(%s[%ds]))", metric, int(window.Seconds())))
	}
}

// expect asks until the answer is want, or the deadline has passed.
func (t *trial) expect(ctx context.Context, deadline time.Time, tenant int, when string, want float64, expr string) {
	for {
		got, err := t.instant(ctx, tenant, expr)
		if err == nil && got == want {
			return
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			t.result.note("%s, %s: %s is %v, want %v (%v)", t.figure, when, expr, got, want, err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// instant evaluates an expression at the time of the load's last samples and
// returns the one number it gives; none counts as 0.
func (t *trial) instant(ctx context.Context, tenant int, expr string) (float64, error) {
	q := url.Values{"query": {expr}, "time": {strconv.FormatInt(t.load.Last().Unix(), 10)}}
	status, body, err := t.get(ctx, t.Query+"/api/v1/query?"+q.Encode(), t.load.TenantName(tenant))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil || status != 200 {
		return 0, fmt.Errorf("query %s: status %d: %.200s", expr, status, body)
	}
	if len(answer.Data.Result) == 0 {
		return 0, nil
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

// version is what the server says it is; "" when it says nothing.
func (s *Server) version(ctx context.Context) string {
	_, body, err := s.get(ctx, s.Query+"/api/v1/status/buildinfo", "bench")
	if err != nil {
		return ""
	}
	var answer struct{ Data struct{ Version string } }
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	return answer.Data.Version
}
