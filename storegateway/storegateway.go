// Package storegateway is OUT 2: series from the blocks in the bucket.
//
// In comes a tenant, a range of time, a selector, and the blocks to search; out
// go the tenant's series from these, blocks of its own and pooled ones. The
// promise: every block that was named is read, or the query fails; it never
// answers silently with less. Any gateway can read any block; that the same
// one is asked for it again is what makes it fast. Memory, local disk and the
// requests under way are bounded, whatever is asked.
//
// The way of a query: indexes on local disk (open.go, download.go), series and
// the chunks they need, ahead of the reader (lookahead.go, plan.go), chunks in
// range reads (load.go) through a cache of pages in memory and on disk
// (pages.go, pagefile.go). Start reading at Gateway.Querier in select.go, which
// a querier of the same process calls, or at Server in grpc.go, the door for
// the others.
package storegateway

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/cores"
	"github.com/hearth-metrics/hearth/tenant"
)

const tidyInterval = time.Minute

// Gateway reads blocks from the bucket. It answers while it runs as a service.
// It is safe for concurrent use.
//
// On local disk it keeps, below <data dir>/storegateway, what it can fetch
// again: the indexes of blocks and a cache of chunks. Both are taken up again
// after a restart.
type Gateway struct {
	services.Service

	cfg     Config
	dir     string
	bucket  bucket.Bucket
	limits  func(tenant.ID) *tenant.Limits
	logger  *slog.Logger
	metrics *metrics
	often   rate.Sometimes // for warnings that each query repeats
	turns   chan struct{}  // held while a question of another process is answered
	waiting atomic.Int64   // questions that wait for a turn

	// Set while starting, before the service runs.
	store  *store
	pages  *pages
	cancel context.CancelFunc // ends what goes on behind queries
}

// New makes a Gateway over the blocks in b. limits says what a tenant may ask.
func New(cfg Config, dataDir string, b bucket.Bucket, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, reg prometheus.Registerer) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg:     cfg,
		dir:     filepath.Join(dataDir, "storegateway"),
		bucket:  b,
		limits:  limits,
		logger:  logger,
		metrics: newMetrics(reg),
		often:   rate.Sometimes{First: 10, Interval: time.Second},
		turns:   make(chan struct{}, max(4, 2*cores.Count())),
	}
	g.Service = services.NewBasicService(g.starting, g.running, g.stopping)
	return g, nil
}

func (g *Gateway) starting(context.Context) error {
	base, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	store := newStore(base, g.bucket, g.dir, 0, g.logger, g.metrics)
	if err := store.makeDirs(); err != nil {
		return fmt.Errorf("start store gateway: %w", err)
	}
	cfg := g.cfg.sized(g.dir)
	store.budget = cfg.MaxIndexDisk
	if err := store.adoptAll(); err != nil {
		return fmt.Errorf("start store gateway: %w", err)
	}
	disk, err := openPageFile(filepath.Join(g.dir, "chunks"), cfg.ChunkCacheDisk)
	if err != nil {
		return fmt.Errorf("start store gateway: %w", err)
	}
	g.store = store
	g.pages = newPages(base, g.bucket, cfg.ChunkCacheMemory, disk, g.logger, g.metrics)
	g.logger.Info("store gateway sized", "max_index_disk", cfg.MaxIndexDisk, "chunk_cache_disk", cfg.ChunkCacheDisk, "chunk_cache_memory", cfg.ChunkCacheMemory)
	return nil
}

func (g *Gateway) running(ctx context.Context) error {
	tick := time.NewTicker(tidyInterval)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			g.store.tidy(now)
		case <-ctx.Done():
			return nil
		}
	}
}

// stopping ends what goes on behind queries. A querier that is still open
// fails when it has to read something more.
func (g *Gateway) stopping(error) error {
	g.cancel()
	if g.pages == nil { // starting failed
		return nil
	}
	g.store.stop()
	return g.pages.stop()
}
