package wire

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"
)

const benchSeries = 2000

// benchLabels are series as Kubernetes has them: ten labels, 250 bytes.
func benchLabels() []labels.Labels {
	var all []labels.Labels
	for i := range benchSeries {
		pod := i / 50
		all = append(all, labels.FromStrings(
			"__name__", fmt.Sprintf("container_network_receive_packets_dropped_%03d_total", i%50),
			"cluster", "production-eu-west-1",
			"container", "checkout-service",
			"endpoint", "https-metrics",
			"instance", fmt.Sprintf("10.128.%d.%d:10250", pod/200, pod%200),
			"job", "kubelet",
			"namespace", "team-payments",
			"node", fmt.Sprintf("ip-10-128-%d-%d.internal", pod/200, pod%200),
			"pod", fmt.Sprintf("checkout-service-6d5f7c9b8-%05d", pod),
			"service", "prometheus-kubelet",
		))
	}
	return all
}

const benchTime = 1_700_000_000_000

func benchV1(tb testing.TB) []byte {
	var req prompb.WriteRequest
	for i, ls := range benchLabels() {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:  prompb.FromLabels(ls, nil),
			Samples: []prompb.Sample{{Value: float64(i) * 1.1, Timestamp: benchTime}},
		})
	}
	body, err := req.Marshal()
	require.NoError(tb, err)
	return body
}

func benchV2(tb testing.TB) []byte {
	var req writev2.Request
	symbols := writev2.NewSymbolTable()
	for i, ls := range benchLabels() {
		req.Timeseries = append(req.Timeseries, writev2.TimeSeries{
			LabelsRefs: symbols.SymbolizeLabels(ls, nil),
			Samples:    []writev2.Sample{{Value: float64(i) * 1.1, Timestamp: benchTime}},
			Metadata:   writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_COUNTER},
		})
	}
	req.Symbols = symbols.Symbols()
	body, err := req.Marshal()
	require.NoError(tb, err)
	return body
}

func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func accept(*Series, []Label) bool { return true }

// BenchmarkWalk compares the walk, which includes naming and hashing, with the
// generated decoders, which only decode.
func BenchmarkWalk(b *testing.B) {
	// CPU time of the process, garbage collection included, and not the time
	// on the clock: other work on the machine disturbs it less.
	perSeries := func(b *testing.B, from time.Duration) {
		b.ReportMetric(float64((cpuTime(b)-from).Nanoseconds())/float64(b.N)/benchSeries, "cpu-ns/series")
	}
	for v, body := range map[Version][]byte{V1: benchV1(b), V2: benchV2(b)} {
		b.Run(fmt.Sprintf("v%d/walk", v), func(b *testing.B) {
			var r Request
			b.ReportAllocs()
			from := cpuTime(b)
			for b.Loop() {
				if err := r.Walk(body, v, "tenant", accept); err != nil {
					b.Fatal(err)
				}
			}
			perSeries(b, from)
		})
	}
	for v, body := range map[Version][]byte{V1: benchV1(b), V2: benchV2(b)} {
		b.Run(fmt.Sprintf("v%d/without", v), func(b *testing.B) {
			var r Request
			leaveOut := func(s *Series, _ []Label) bool { r.LeaveOut(s, "cluster"); return true }
			b.ReportAllocs()
			from := cpuTime(b)
			for b.Loop() {
				if err := r.Walk(body, v, "tenant", leaveOut); err != nil {
					b.Fatal(err)
				}
			}
			perSeries(b, from)
		})
	}
	b.Run("v1/generated", func(b *testing.B) {
		body := benchV1(b)
		var req prompb.WriteRequest
		b.ReportAllocs()
		from := cpuTime(b)
		for b.Loop() {
			req.Reset()
			if err := req.Unmarshal(body); err != nil {
				b.Fatal(err)
			}
		}
		perSeries(b, from)
	})
	b.Run("v2/generated", func(b *testing.B) {
		body := benchV2(b)
		var req writev2.Request
		b.ReportAllocs()
		from := cpuTime(b)
		for b.Loop() {
			req.Reset()
			if err := req.Unmarshal(body); err != nil {
				b.Fatal(err)
			}
		}
		perSeries(b, from)
	})
}
