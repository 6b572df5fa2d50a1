package tenant

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	load    prometheus.Gauge
	refused *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, r *Registry) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_tenant_registered",
		Help: "Tenants in the registry.",
	}, func() float64 { return r.count(func(s *shard) int { return len(s.tenants) }) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_tenant_tokens",
		Help: "Tokens in the registry, those of operators and expired ones included.",
	}, func() float64 { return r.count(func(s *shard) int { return len(s.tokens) }) })
	return &metrics{
		load: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_tenant_registry_load_seconds",
			Help: "Time that reading the registry took at the start.",
		}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_tenant_requests_refused_total",
			Help: "Requests that were not let in, by error id.",
		}, []string{"reason"}),
	}
}

func (r *Registry) count(of func(*shard) int) float64 {
	n := 0
	for i := range r.shards {
		n += of(r.shards[i].Load())
	}
	return float64(n)
}
