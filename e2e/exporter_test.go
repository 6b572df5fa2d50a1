//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// exporter is a small shop with metrics of all types. Something happens in it
// whenever it is scraped.
type exporter struct {
	mu  sync.Mutex
	rnd *rand.Rand
	n   int

	orders      *prometheus.CounterVec
	queue       *prometheus.GaugeVec
	size        *prometheus.HistogramVec
	latency     *prometheus.HistogramVec
	payment     prometheus.Summary
	temperature prometheus.Gauge
	visitors    *prometheus.GaugeVec
	handler     http.Handler
}

func newExporter(rnd *rand.Rand) *exporter {
	reg := prometheus.NewRegistry()
	f := promauto.With(reg)
	return &exporter{
		rnd:         rnd,
		orders:      f.NewCounterVec(prometheus.CounterOpts{Name: "shop_orders_total", Help: "Orders by kind.\nAnd a second line."}, []string{"kind"}),
		queue:       f.NewGaugeVec(prometheus.GaugeOpts{Name: "shop_queue_length", Help: "Who waits."}, []string{"desk"}),
		size:        f.NewHistogramVec(prometheus.HistogramOpts{Name: "shop_order_size_bytes", Help: "Classic.", Buckets: []float64{1, 10, 100, 1000}}, []string{"kind"}),
		latency:     f.NewHistogramVec(prometheus.HistogramOpts{Name: "shop_latency_seconds", Help: "Native and classic.", Buckets: []float64{0.1, 1, 10}, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 40}, []string{"kind"}),
		payment:     f.NewSummary(prometheus.SummaryOpts{Name: "shop_payment_euros", Help: "A summary.", Objectives: map[float64]float64{0.5: 0.05, 0.9: 0.01}}),
		temperature: f.NewGauge(prometheus.GaugeOpts{Name: "shop.temperature", Help: "With a dot."}),
		visitors:    f.NewGaugeVec(prometheus.GaugeOpts{Name: "shop_visitors", Help: "Come and go."}, []string{"name"}),
		handler:     promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}),
	}
}

func (e *exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.work()
	e.handler.ServeHTTP(w, r)
}

func (e *exporter) work() {
	e.n++
	trace := prometheus.Labels{"trace_id": fmt.Sprintf("%016x", e.rnd.Uint64())}
	for _, kind := range []string{"retail", `whole"sale\`, "ünïcode"} {
		e.orders.WithLabelValues(kind).(prometheus.ExemplarAdder).AddWithExemplar(float64(e.rnd.IntN(5)), trace)
		for range e.rnd.IntN(4) {
			e.size.WithLabelValues(kind).(prometheus.ExemplarObserver).ObserveWithExemplar(e.rnd.ExpFloat64()*50, trace)
			e.latency.WithLabelValues(kind).(prometheus.ExemplarObserver).ObserveWithExemplar(e.rnd.ExpFloat64()*float64(1+e.n%7), trace)
		}
	}
	if e.n%25 == 0 {
		e.orders.Reset() // as after a restart
	}
	e.queue.WithLabelValues("a").Set(e.rnd.NormFloat64())
	e.queue.WithLabelValues("b").Set(float64(e.n))
	e.payment.Observe(e.rnd.Float64() * 100)
	e.temperature.Set(20 + e.rnd.Float64())
	e.visitors.Reset()
	e.visitors.WithLabelValues(fmt.Sprint("v", e.n/8%3)).Set(1)
}
