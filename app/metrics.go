package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	panics   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "hearth_http_request_duration_seconds",
			Help:                            "Time to answer HTTP requests, from the end of the header to the end of the answer.",
			Buckets:                         []float64{.005, .025, .1, .5, 1, 2.5, 5, 10, 30, 120},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"method", "route", "status_code"}),
		inFlight: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_http_requests_in_flight",
			Help: "HTTP requests that are being answered now.",
		}),
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_http_panics_total",
			Help: "HTTP requests that ended in a panic; the log has the stack.",
		}),
	}
}
