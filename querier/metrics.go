package querier

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	queries   *prometheus.CounterVec   // how many, and how they ended
	duration  *prometheus.HistogramVec // how long a client waited
	queueWait prometheus.Histogram     // how much of that was the queue
	refused   *prometheus.CounterVec   // which limit tenants run into
}

// The ways a query ends, for the label outcome.
const (
	outcomeSuccess  = "success"
	outcomeRejected = "rejected" // the client's fault: parameters, limits
	outcomeQueued   = "queue_full"
	outcomeCanceled = "canceled"
	outcomeFailed   = "failed" // our fault
)

func newMetrics(reg prometheus.Registerer, q *queue) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_querier_queue_length",
		Help: "Queries that wait for their turn.",
	}, func() float64 { waiting, _ := q.load(); return float64(waiting) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hearth_querier_running_queries",
		Help: "Queries that are running.",
	}, func() float64 { _, running := q.load(); return float64(running) })
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: "hearth_querier_paused_seconds_total",
		Help: "Time that queries have paused for those of others, because their tenants had asked more than may wait.",
	}, func() float64 { return time.Duration(q.paused.Load()).Seconds() })
	f.NewGauge(prometheus.GaugeOpts{
		Name: "hearth_querier_max_running_queries",
		Help: "Queries that may run at once in this process (querier.max_concurrent).",
	}).Set(float64(q.slots))

	native := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Name:                            name,
			Help:                            help,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}
	}
	return &metrics{
		queries: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_querier_queries_total",
			Help: "Requests to the query API by how they ended: success, rejected (parameters, limits), queue_full, canceled, failed.",
		}, []string{"endpoint", "outcome"}),
		duration: f.NewHistogramVec(native(
			"hearth_querier_query_duration_seconds",
			"Time from the request to the end of the answer, the wait for its turn included.",
		), []string{"endpoint"}),
		queueWait: f.NewHistogram(native(
			"hearth_querier_queue_wait_seconds",
			"Time that queries waited for their turn.",
		)),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_querier_refused_queries_total",
			Help: "Queries that ran into a limit, by the id of the error.",
		}, []string{"id"}),
	}
}

type gatewayMetrics struct {
	asked *prometheus.CounterVec // whether store gateways can be relied on
}

func newGatewayMetrics(reg prometheus.Registerer) *gatewayMetrics {
	return &gatewayMetrics{asked: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "hearth_querier_gateway_requests_total",
		Help: "Questions to store gateways by how they went: success, failure (others were asked for what is missing), silent (others were asked as well).",
	}, []string{"outcome"})}
}
