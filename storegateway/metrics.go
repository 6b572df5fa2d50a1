package storegateway

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	blocksQueried  prometheus.Counter
	blocksOpen     prometheus.Gauge
	indexDisk      prometheus.Gauge
	indexDownloads *prometheus.CounterVec
	chunkBytes     *prometheus.CounterVec
	rangeReads     *prometheus.CounterVec
	cacheBytes     *prometheus.GaugeVec
	failures       *prometheus.CounterVec

	// The children that every query touches.
	fromBucket, fromMemory, fromDisk prometheus.Counter
	memoryBytes, diskBytes           prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		blocksQueried: f.NewCounter(prometheus.CounterOpts{
			Name: "hearth_storegateway_blocks_queried_total",
			Help: "Blocks opened by queries, once for each query and block.",
		}),
		blocksOpen: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_storegateway_blocks_open",
			Help: "Blocks whose index is mapped into memory.",
		}),
		indexDisk: f.NewGauge(prometheus.GaugeOpts{
			Name: "hearth_storegateway_index_disk_bytes",
			Help: "Bytes of block indexes on local disk.",
		}),
		indexDownloads: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_storegateway_index_downloads_total",
			Help: "Block indexes fetched from the bucket, by outcome (success or failure).",
		}, []string{"outcome"}),
		chunkBytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_storegateway_chunk_bytes_total",
			Help: "Bytes of chunk segments read for queries, by where they came from (bucket, memory or disk).",
		}, []string{"source"}),
		rangeReads: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_storegateway_bucket_range_reads_total",
			Help: "Range reads of chunk segments in the bucket, by outcome (success or failure).",
		}, []string{"outcome"}),
		cacheBytes: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hearth_storegateway_chunk_cache_bytes",
			Help: "Bytes of chunk segments cached, by where they are (memory or disk).",
		}, []string{"source"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_storegateway_query_failures_total",
			Help: "Queries that failed because stored data could not be read, by error id.",
		}, []string{"reason"}),
	}
	m.fromBucket = m.chunkBytes.WithLabelValues("bucket")
	m.fromMemory = m.chunkBytes.WithLabelValues("memory")
	m.fromDisk = m.chunkBytes.WithLabelValues("disk")
	m.memoryBytes = m.cacheBytes.WithLabelValues("memory")
	m.diskBytes = m.cacheBytes.WithLabelValues("disk")
	return m
}

func outcome(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}
