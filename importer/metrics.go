package importer

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	blocks   *prometheus.CounterVec
	bytes    prometheus.Counter
	checking prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		blocks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_importer_blocks_total",
			Help: "Uploaded blocks, by outcome: started, published (queries find it), refused (it is damaged or over a limit), interrupted (its check was broken off and has to be asked for again).",
		}, []string{"outcome"}),
		bytes: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_importer_received_bytes_total",
			Help: "Bytes of files of uploaded blocks that were received.",
		}),
		checking: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_importer_blocks_in_validation",
			Help: "Uploaded blocks that are being verified now, by this process.",
		}),
	}
}
