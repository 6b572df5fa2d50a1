// Package importer is IN 3: it takes whole blocks, history that others have
// written.
//
// In comes a block of a tenant, file by file, over Mimir's API for uploads; out
// goes the same block in the tenant's home, where queries and compactors find
// it, or the reason why not. The promises: nobody sees a block before all of it
// was read and found sound and within the tenant's limits; what is going on is
// in the bucket, so that any process can go on with it and a crash costs no
// more than the check that was under way; memory does not grow with the block.
//
// The way of a block: start.go (its meta.json is checked), receive.go (its
// files), finish.go (it is verified and published); state.go is how far it is.
// What is never finished is removed by the compactor a day later, as everything
// that has no meta.json.
package importer

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

const (
	// receivesAtOnce is how many files are received at once; each is on local
	// disk until the bucket has it.
	receivesAtOnce = 16

	// validationsAtOnce is how many blocks are verified at once; each is on
	// local disk meanwhile.
	validationsAtOnce = 2
)

// Importer takes blocks while it runs as a service.
//
// On local disk it has, below <data dir>/importer, what it is working on, and
// nothing that it needs after a restart.
type Importer struct {
	services.Service

	dir    string
	bucket bucket.Bucket
	limits func(tenant.ID) *tenant.Limits

	logger  *slog.Logger
	metrics *metrics

	receiving  chan struct{} // a slot for each file
	validating chan struct{} // a slot for each block

	base    context.Context // validations outlive the requests that asked for them
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	stopped bool // nothing is added to running any more
}

// New makes an Importer into b. limits says who may upload, and what.
func New(dataDir string, b bucket.Bucket, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, reg prometheus.Registerer) *Importer {
	i := &Importer{
		dir:        filepath.Join(dataDir, "importer"),
		bucket:     b,
		limits:     limits,
		logger:     logger,
		metrics:    newMetrics(reg),
		receiving:  make(chan struct{}, receivesAtOnce),
		validating: make(chan struct{}, validationsAtOnce),
	}
	i.base, i.cancel = context.WithCancel(context.Background())
	i.Service = services.NewIdleService(i.starting, i.stopping)
	return i
}

// starting throws away what a process that was killed has left.
func (i *Importer) starting(context.Context) error {
	if err := os.RemoveAll(i.dir); err != nil {
		return fmt.Errorf("start importer: %w", err)
	}
	if err := os.MkdirAll(i.dir, 0o777); err != nil {
		return fmt.Errorf("start importer: %w", err)
	}
	return nil
}

// stopping breaks validations off; whoever waits for one asks again.
func (i *Importer) stopping(error) error {
	i.mu.Lock()
	i.stopped = true
	i.mu.Unlock()
	i.cancel()
	i.running.Wait()
	return nil
}

// behind runs f apart from the request that asks for it, unless the importer
// is stopping.
func (i *Importer) behind(f func()) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return false
	}
	i.running.Go(f)
	return true
}
