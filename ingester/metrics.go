package ingester

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	samples      *prometheus.CounterVec
	refused      *prometheus.CounterVec
	keyed        *prometheus.CounterVec
	tenants      prometheus.Gauge
	series       *prometheus.GaugeVec
	heads        *prometheus.GaugeVec
	cuts         *prometheus.CounterVec
	shipped      prometheus.Counter
	shipFailures prometheus.Counter
	unshipped    prometheus.Gauge
	replay       prometheus.Gauge
	walErrors    prometheus.Counter
	hurt         prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		samples: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_ingester_samples_appended_total",
			Help: "Samples stored in the write-ahead log and a head, by type.",
		}, []string{"type"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_ingester_samples_refused_total",
			Help: "Samples, exemplars and metadata that the ingester refused, by error id.",
		}, []string{"reason"}),
		keyed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_ingester_keyed_requests_total",
			Help: "Write requests with keys in place of labels, by outcome: stored, unknown (a series is not known, or something has to be refused: it comes again with labels), or secret (the sender makes other keys).",
		}, []string{"outcome"}),
		tenants: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_ingester_tenants",
			Help: "Tenants with recent data.",
		}),
		series: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hearth_ingester_series",
			Help: "Series in memory, by kind of head (pool or own).",
		}, []string{"head"}),
		heads: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hearth_ingester_heads",
			Help: "Open heads, by kind (pool or own).",
		}, []string{"head"}),
		cuts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_ingester_cuts_total",
			Help: "Attempts to cut a head's data into blocks, by outcome (success or failure).",
		}, []string{"outcome"}),
		shipped: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_ingester_blocks_shipped_total",
			Help: "Blocks uploaded to the bucket.",
		}),
		shipFailures: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_ingester_ship_failures_total",
			Help: "Failed attempts to upload a block; each is tried again.",
		}),
		unshipped: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_ingester_blocks_unshipped",
			Help: "Blocks on local disk that the bucket does not have yet.",
		}),
		replay: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_ingester_replay_duration_seconds",
			Help: "How long the heads took to open at start, write-ahead logs included.",
		}),
		walErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_ingester_commit_failures_total",
			Help: "Pushes that could not be made durable; the client was told to send them again.",
		}),
		hurt: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_ingester_heads_hurt",
			Help: "Heads whose log could not be written: they take no writes until they have been opened anew.",
		}),
	}
}
