package alertmanager

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	received *prometheus.CounterVec
	dropped  *prometheus.CounterVec
	syncs    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, tenants func() (here, awake int)) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_alertmanager_tenants",
		Help: "Tenants whose Alertmanager is in this process, asleep or awake.",
	}, func() float64 {
		here, _ := tenants()
		return float64(here)
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_alertmanager_tenants_awake",
		Help: "Tenants whose Alertmanager is in this process and in memory: it has alerts, or somebody has just asked for it.",
	}, func() float64 {
		_, awake := tenants()
		return float64(awake)
	})
	return &metrics{
		received: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_alertmanager_alerts_received_total",
			Help: "Alerts that a tenant's Alertmanager in this process has taken, by state: firing or resolved.",
		}, []string{"state"}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_alertmanager_alerts_dropped_total",
			Help: "Alerts that were not taken, by reason: the tenant has no configuration, or an error id.",
		}, []string{"reason"}),
		syncs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_alertmanager_syncs_total",
			Help: "Changes of tenants in this process (open, reload, hand over, sleep, save state, tell a replica), by outcome.",
		}, []string{"what", "outcome"}),
	}
}

// done counts an outcome, and passes it on.
func (m *metrics) done(what string, err error) error {
	outcome := "success"
	if err != nil {
		outcome = "failure"
	}
	m.syncs.WithLabelValues(what, outcome).Inc()
	return err
}

// unregistered takes the metrics of upstream's packages that would be there
// once for each tenant, and drops them.
type unregistered struct{}

func (unregistered) Register(prometheus.Collector) error  { return nil }
func (unregistered) MustRegister(...prometheus.Collector) {}
func (unregistered) Unregister(prometheus.Collector) bool { return false }
