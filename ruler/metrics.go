package ruler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	tenants     prometheus.Gauge
	groups      prometheus.Gauge
	evaluations *prometheus.CounterVec
	lag         prometheus.Histogram
	duration    prometheus.Histogram
	missed      prometheus.Counter
	restores    *prometheus.CounterVec
	templates   prometheus.Counter
	alerts      *prometheus.CounterVec
	syncs       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	native := func(name, help string) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
			Buckets: []float64{.001, .01, .1, 1, 10, 60},
		})
	}
	return &metrics{
		tenants: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_ruler_tenants",
			Help: "Tenants that have rules.",
		}),
		groups: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_ruler_groups",
			Help: "Rule groups that this process evaluates.",
		}),
		evaluations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_ruler_evaluations_total",
			Help: "Queries of rules, by outcome (success; failure: of the expression; unavailable: data could not be read).",
		}, []string{"outcome"}),
		lag: native("hearth_ruler_evaluation_lag_seconds",
			"How much later than planned the evaluation of a group began."),
		duration: native("hearth_ruler_group_duration_seconds",
			"How long the evaluation of a group took, the writing of its results included."),
		missed: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_ruler_evaluations_missed_total",
			Help: "Evaluations of groups that were left out because the one before took longer than the interval.",
		}),
		restores: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_ruler_restores_total",
			Help: "Groups whose alerts were taken over from what is stored, by outcome (success or failure; after a failure it is tried again).",
		}, []string{"outcome"}),
		templates: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_ruler_templates_stopped_total",
			Help: "Evaluations of alerting rules that failed because their templates would have taken too much.",
		}),
		alerts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_ruler_alerts_total",
			Help: "Alerts handed to Alertmanagers, by outcome (sent, failed, dropped because too many wait, nowhere: there is no Alertmanager).",
		}, []string{"outcome"}),
		syncs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_ruler_syncs_total",
			Help: "Comparisons with the list of all rules in the bucket, by outcome (success or failure).",
		}, []string{"outcome"}),
	}
}

// outcome is the label of what may fail.
func outcome(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}
