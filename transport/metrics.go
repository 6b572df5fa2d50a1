package transport

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	loadFailures *prometheus.CounterVec
	refused      *prometheus.CounterVec
}

// The doors at which members are refused, and why.
const (
	doorGRPC   = "grpc"
	doorGossip = "gossip"

	reasonTLS         = "tls"
	reasonNoSecret    = "no_secret"
	reasonWrongSecret = "wrong_secret"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		loadFailures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_transport_certificate_load_failures_total",
			Help: "Looks at a certificate, key or CA on disk that cannot be used. What was read before stays in use; the log has the reason. While it counts up, a renewal does not arrive.",
		}, []string{"section"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_transport_refused_total",
			Help: "Connections and calls to the ports of members that were refused: tls (no certificate of a member), no_secret and wrong_secret (cluster.secret). A member with a wrong configuration, or somebody who is none.",
		}, []string{"door", "reason"}),
	}
}

// expiryGauge tells when certificates end. It looks at the disk as a handshake
// does, so that it is right where nobody connects.
type expiryGauge struct {
	desc  *prometheus.Desc
	files []*files
}

func newExpiryGauge(fs []*files) *expiryGauge {
	return &expiryGauge{files: fs, desc: prometheus.NewDesc("hearth_transport_certificate_expiry_timestamp_seconds",
		"When the certificate in use ends, by the section of the configuration that names it.", []string{"section"}, nil)}
}

// Describe implements prometheus.Collector.
func (g *expiryGauge) Describe(out chan<- *prometheus.Desc) { out <- g.desc }

// Collect implements prometheus.Collector.
func (g *expiryGauge) Collect(out chan<- prometheus.Metric) {
	for _, f := range g.files {
		end := f.current().pair.Leaf.NotAfter
		out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(end.Unix()), f.section)
	}
}
