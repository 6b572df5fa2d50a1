package compactor

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	runs        *prometheus.CounterVec
	lastSuccess prometheus.Gauge
	jobs        *prometheus.CounterVec
	duration    prometheus.Histogram
	backlog     prometheus.Gauge
	compacted   prometheus.Counter
	written     prometheus.Counter
	marked      *prometheus.CounterVec
	deleted     *prometheus.CounterVec
	deletions   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		runs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_compactor_rounds_total",
			Help: "Looks at everything that is due, by outcome (success or failure). A failure has a warning in the log.",
		}, []string{"outcome"}),
		lastSuccess: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_compactor_last_success_timestamp_seconds",
			Help: "When all that was due had last been done.",
		}),
		jobs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_compactor_jobs_total",
			Help: "Compactions, by outcome: success, failure (will be tried again), bad_block (one was marked and is left out from now on), lost (another compactor was faster).",
		}, []string{"outcome"}),
		duration: f.NewHistogram(prometheus.HistogramOpts{
			Name:                            "hearth_compactor_job_duration_seconds",
			Help:                            "How long compactions took, from the first byte fetched to the new list of blocks.",
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
			Buckets:                         []float64{1, 5, 30, 120, 600, 3600},
		}),
		backlog: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_compactor_jobs_pending",
			Help: "Compactions that are known to be due and have not ended, of this compactor.",
		}),
		compacted: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_compactor_blocks_compacted_total",
			Help: "Blocks that were replaced by others.",
		}),
		written: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_compactor_blocks_written_total",
			Help: "Blocks that compactions have made.",
		}),
		marked: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_compactor_blocks_marked_total",
			Help: "Blocks that were marked, by reason: retention, tenant (it is deleted), foreign (a mark that another system wrote), bad (left out of compactions from now on).",
		}, []string{"reason"}),
		deleted: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_compactor_blocks_deleted_total",
			Help: "Blocks whose objects were removed, by reason: marked, or unlisted (an upload, a deletion or a compaction that was broken off).",
		}, []string{"reason"}),
		deletions: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_compactor_tenants_deleting",
			Help: "Tenants that are being deleted.",
		}),
	}
}
