package app

import (
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/tenant"
)

const threeRules = `name: rules
rules:
  - {record: "job:up:sum", expr: "sum by (job) (up)"}
  - {alert: Down, expr: "up == 0", for: 5m, labels: {severity: page}}
  - {alert: Absent, expr: "absent(up)", for: 5m}
`

// BenchmarkRules is one process with 5,000 tenants that have three rules each
// and ten series of their own, evaluated every minute, over HTTP and a folder as
// bucket. It shows CPU, memory and how late evaluations were while it was
// evaluating for b.N minutes: run it with -benchtime 3x.
func BenchmarkRules(b *testing.B) {
	const tenants = 5000
	cfg := DefaultConfig()
	cfg.DataDir = b.TempDir()
	cfg.Server.HTTPListenAddress, cfg.Server.GRPCListenAddress = "127.0.0.1:0", "127.0.0.1:0"
	a, err := New(cfg, discard())
	require.NoError(b, err)
	require.NoError(b, a.Start(b.Context()))
	b.Cleanup(func() { require.NoError(b, a.Stop()) })
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	send := func(id, path, body string) error {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+a.Addr()+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set(tenant.Header, id)
		res, err := client.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode/100 != 2 {
			return fmt.Errorf("%s: %s", path, res.Status)
		}
		return nil
	}
	each := func(f func(id string) error) {
		var g errgroup.Group
		g.SetLimit(8)
		for i := range tenants {
			g.Go(func() error { return f(fmt.Sprintf("tenant-%d", i)) })
		}
		require.NoError(b, g.Wait())
	}
	each(func(id string) error { return send(id, "/api/v1/push", tenSeries(b)) })
	before := inUse()
	each(func(id string) error { return send(id, "/prometheus/config/v1/rules/ns", threeRules) })
	await := time.NewTimer(time.Minute + 10*time.Second) // until each was evaluated once
	<-await.C

	cpu, lag := cpuTime(), lagOf(b, a)
	b.ResetTimer()
	for range b.N {
		each(func(id string) error { return send(id, "/api/v1/push", tenSeries(b)) })
		<-time.After(45 * time.Second)
	}
	b.StopTimer()
	now := lagOf(b, a)
	elapsed := b.Elapsed().Seconds()
	b.ReportMetric((cpuTime()-cpu).Seconds()/elapsed, "cores")
	b.ReportMetric(float64(inUse()-before)/tenants/1024, "KiB/tenant")
	b.ReportMetric(now.resident/(1<<20), "MiB-resident")
	b.ReportMetric((now.sum-lag.sum)/(now.count-lag.count)*1000, "ms-lag")
	for _, bound := range slices.Sorted(maps.Keys(now.upTo)) {
		b.Logf("evaluations that began within %gs of their time: %.0f of %.0f", bound, now.upTo[bound]-lag.upTo[bound], now.count-lag.count)
	}
	b.ReportMetric((now.count-lag.count)/elapsed, "groups/s")
	b.ReportMetric(counter(b, a, "hearth_ruler_evaluations_missed_total"), "missed")
	b.ReportMetric(counter(b, a, `hearth_ruler_evaluations_total{outcome="failure"}`)+counter(b, a, `hearth_ruler_evaluations_total{outcome="unavailable"}`), "failed")
	b.ReportMetric(0, "ns/op")
}

func tenSeries(b *testing.B) string {
	b.Helper()
	var r prompb.WriteRequest
	for i := range 10 {
		r.Timeseries = append(r.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "instance", Value: fmt.Sprint(i)}, {Name: "job", Value: "j"}},
			Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: 1}},
		})
	}
	body, err := r.Marshal()
	require.NoError(b, err)
	return string(snappy.Encode(nil, body))
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for ourselves
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// lags is how late evaluations began.
type lags struct {
	count, sum float64
	upTo       map[float64]float64 // by seconds
	resident   float64             // bytes of memory, as the system counts them
}

func lagOf(b *testing.B, a *App) lags {
	b.Helper()
	families, err := a.reg.Gather()
	require.NoError(b, err)
	l := lags{upTo: map[float64]float64{}}
	for _, f := range families {
		switch f.GetName() {
		case "process_resident_memory_bytes":
			l.resident = f.GetMetric()[0].GetGauge().GetValue()
		case "hearth_ruler_evaluation_lag_seconds":
			h := f.GetMetric()[0].GetHistogram()
			l.count, l.sum = float64(h.GetSampleCount()), h.GetSampleSum()
			for _, bucket := range h.GetBucket() {
				l.upTo[bucket.GetUpperBound()] = float64(bucket.GetCumulativeCount())
			}
		}
	}
	return l
}

// counter is the value of a counter by its name, with a label if it has one.
func counter(b *testing.B, a *App, name string) float64 {
	b.Helper()
	families, err := a.reg.Gather()
	require.NoError(b, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			full := f.GetName()
			if ls := m.GetLabel(); len(ls) == 1 {
				full += fmt.Sprintf("{%s=%q}", ls[0].GetName(), ls[0].GetValue())
			}
			if full == name {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
