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
	otlp       prometheus.Counter
	ha         *haMetrics
}

func newMetrics(reg prometheus.Registerer, in *inflight) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_distributor_inflight_bytes",
		Help: "Memory held by write requests in progress.",
	}, func() float64 { return float64(in.total()) })
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
	m.otlp = m.requests.WithLabelValues("otlp")
	m.ha = newHAMetrics(f)
	return m
}

// haMetrics are of pairs of Prometheus.
type haMetrics struct {
	deduplicated, stored, unheld, failures prometheus.Counter
	elections                              struct{ first, failover, heard prometheus.Counter }
}

func newHAMetrics(f promauto.Factory) *haMetrics {
	elections := f.NewCounterVec(prometheus.CounterOpts{
		Name: "hearth_distributor_ha_elections_total",
		Help: "Elections of a replica of a pair of Prometheus. Cause: first (the pair is new), failover (the elected one was silent), heard (another distributor elected another).",
	}, []string{"cause"})
	m := &haMetrics{
		deduplicated: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_distributor_ha_deduplicated_samples_total",
			Help: "Samples of replicas that were not elected: answered as accepted and not stored.",
		}),
		stored: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_distributor_ha_held_samples_stored_total",
			Help: "Deduplicated samples that were stored after all, because their replica took over and they fill the hole before that.",
		}),
		unheld: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_distributor_ha_unheld_requests_total",
			Help: "Requests of replicas that were not elected for which there was no room to hold them (distributor.ha.max_held_bytes). A failover leaves a hole where they are missing.",
		}),
		failures: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_distributor_ha_store_failures_total",
			Help: "Attempts to tell other distributors of pairs that failed. They are repeated.",
		}),
	}
	m.elections.first = elections.WithLabelValues("first")
	m.elections.failover = elections.WithLabelValues("failover")
	m.elections.heard = elections.WithLabelValues("heard")
	return m
}

// observe adds what is read from the tracker.
func (m *metrics) observe(reg prometheus.Registerer, t *haTracker) {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_distributor_ha_pairs",
		Help: "Pairs of Prometheus that are known, of all tenants.",
	}, func() float64 { return float64(t.live()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_distributor_ha_held_bytes",
		Help: "Memory of requests of replicas that are not elected, held until it is known whether they are needed.",
	}, func() float64 { return float64(t.heldBytes()) })
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
