package distributor

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hearth-metrics/hearth/wire"
)

type metrics struct {
	received   *prometheus.CounterVec
	refused    *prometheus.CounterVec
	requests   *prometheus.CounterVec
	bytesIn    prometheus.Counter
	perVersion map[wire.Version]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, in *inflight) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_distributor_inflight_bytes",
		Help: "Memory held by write requests in progress.",
	}, func() float64 { return float64(in.used.Load()) })
	m := &metrics{
		received: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_distributor_samples_received_total",
			Help: "What valid write requests carried, by type, before limits.",
		}, []string{"type"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_distributor_samples_refused_total",
			Help: "Samples, exemplars and metadata that were refused before they reached an ingester, by error id.",
		}, []string{"reason"}),
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_distributor_requests_total",
			Help: "Write requests, by protocol.",
		}, []string{"protocol"}),
		bytesIn: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_distributor_received_bytes_total",
			Help: "Bytes of write requests, decompressed.",
		}),
	}
	m.perVersion = map[wire.Version]prometheus.Counter{
		wire.V1: m.requests.WithLabelValues("remote_write_1"),
		wire.V2: m.requests.WithLabelValues("remote_write_2"),
	}
	return m
}

// count tallies a decoded request and what validation took out of it.
func (m *metrics) count(r *wire.Request, refused *wire.Refusals) {
	m.received.WithLabelValues("float").Add(float64(len(r.Samples)))
	if n := len(r.Histograms); n > 0 {
		m.received.WithLabelValues("histogram").Add(float64(n))
	}
	if n := len(r.Exemplars); n > 0 {
		m.received.WithLabelValues("exemplar").Add(float64(n))
	}
	if n := len(r.Metadata); n > 0 {
		m.received.WithLabelValues("metadata").Add(float64(n))
	}
	for _, c := range refused.Counts {
		m.refused.WithLabelValues(c.ID).Add(float64(c.Count))
	}
}
