// Package compactor is TIDY: it makes few large blocks of many small ones, and
// removes what is not to be kept.
//
// In come the homes that have something due, by a calendar in the bucket, and
// the pool, always; out go the same samples, each once, in blocks of up to a
// day, and deletion marks on what they were made of. The promises: a compaction
// is one conditional write of the home's index, so a crash, or two compactors
// at the same work, lose nothing and show nothing twice; a bad block is marked
// and left alone, and the rest goes on; where nothing happens nothing is asked
// of the bucket.
//
// The way of a home (home.go): what is to go is marked and deleted (retire.go,
// unlisted.go), what is to be merged is planned (plan.go), fetched (fetch.go),
// merged and split (merge.go, part.go), checked (package block) and committed
// (commit.go). Tenants are deleted in tenant.go. Start reading at Round.
package compactor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/cores"
	"github.com/hearth-metrics/hearth/tenant"
)

// homesAtOnce is how many homes are looked at at once. How many compactions
// run is bounded apart from it.
const homesAtOnce = 8

// Compactor tidies up the bucket while it runs as a service.
//
// On local disk it has, below <data dir>/compactor, the blocks that it is
// working on, and nothing that it needs after a restart.
type Compactor struct {
	services.Service

	cfg    Config
	dir    string
	bucket bucket.Bucket
	limits func(tenant.ID) *tenant.Limits
	owns   func(key string) bool
	alone  bool

	registry Registry // nil: nobody asks for deletions but by request

	logger  *slog.Logger
	metrics *metrics
	slots   chan struct{} // one for each compaction that may run
	backoff *backoff

	pooled *residents

	mu      sync.Mutex
	cleaned map[bucket.Key]cleaning // of each home, the last
	homes   time.Time               // when the bucket was last searched for homes
	sizes   map[tenant.ID]int64     // bytes in homes that we have looked at
	known   map[tenant.ID]bool      // tenants with homes
	knownAt time.Time
}

// New makes a Compactor of the blocks in b. limits says how long a tenant's
// samples are kept. It does all the work until ShareWork is called.
func New(cfg Config, dataDir string, b bucket.Bucket, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, reg prometheus.Registerer) (*Compactor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	workers := cfg.Concurrency
	if workers == 0 {
		workers = max(1, cores.Count()/2)
	}
	c := &Compactor{
		cfg:     cfg,
		dir:     filepath.Join(dataDir, "compactor"),
		bucket:  b,
		limits:  limits,
		owns:    func(string) bool { return true },
		alone:   true,
		logger:  logger,
		metrics: newMetrics(reg),
		slots:   make(chan struct{}, workers),
		backoff: newBackoff(),

		pooled:  newResidents(),
		cleaned: map[bucket.Key]cleaning{},
		sizes:   map[tenant.ID]int64{},
	}
	c.Service = services.NewBasicService(c.starting, c.running, nil)
	return c, nil
}

// ShareWork has the compactor do only what it owns, of homes and of jobs. When
// two believe to own the same, one of them works in vain. Call it before the
// service starts.
func (c *Compactor) ShareWork(owns func(key string) bool) { c.owns, c.alone = owns, false }

// DeleteFor has the compactor remove the tenants that a registry has given up.
// Call it before the service starts.
func (c *Compactor) DeleteFor(r Registry) { c.registry = r }

// starting throws away what a process that was killed has left.
func (c *Compactor) starting(context.Context) error {
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("start compactor: %w", err)
	}
	if err := os.MkdirAll(c.dir, 0o777); err != nil {
		return fmt.Errorf("start compactor: %w", err)
	}
	return nil
}

func (c *Compactor) running(ctx context.Context) error {
	for {
		if err := c.Round(ctx); err != nil && ctx.Err() == nil {
			c.logger.Warn("not all that is due could be tidied up, will retry", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(c.cfg.Interval)):
		}
	}
}

// Round does once all that is due now. What fails is tried again in a later
// round, at growing distances; it does not keep the rest from being done.
func (c *Compactor) Round(ctx context.Context) error {
	r, err := c.begin(ctx)
	if err != nil {
		c.metrics.runs.WithLabelValues("failure").Inc()
		return err
	}
	var g errgroup.Group
	g.SetLimit(homesAtOnce)
	var mu sync.Mutex
	var errs []error
	work := func(f func() error) {
		g.Go(func() error {
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	work(func() error { return c.tidyPool(ctx, r) })
	work(func() error { return c.help(ctx, r) })
	for _, id := range slices.Sorted(maps.Keys(r.due)) {
		work(func() error { return c.visit(ctx, r, id) })
	}
	_ = g.Wait() // its functions return nothing
	errs = append(errs, c.followDeletions(ctx, r), c.findHomes(ctx, r.now), c.weighHomes(ctx, r.now))
	err = errors.Join(errs...)
	if err != nil {
		c.metrics.runs.WithLabelValues("failure").Inc()
		return err
	}
	c.metrics.runs.WithLabelValues("success").Inc()
	c.metrics.lastSuccess.SetToCurrentTime()
	return nil
}

// round is what a Round goes by.
type round struct {
	now      time.Time
	due      map[tenant.ID][]bucket.Key // tenants that we own, with their notes
	deleting map[tenant.ID]bool         // all tenants that are to go
	shared   bool                       // there is work that is shared
}

func (c *Compactor) begin(ctx context.Context) (*round, error) {
	r := &round{now: time.Now(), due: map[tenant.ID][]bucket.Key{}}
	if err := c.followRegistry(ctx); err != nil {
		return nil, err
	}
	there, err := c.desk(ctx)
	if err != nil {
		return nil, err
	}
	r.shared = there[sharedFolder.Folder()]
	if there[deletingFolder.Folder()] {
		if r.deleting, err = listDeleting(ctx, c.bucket); err != nil {
			return nil, err
		}
	}
	for id := range r.deleting {
		if c.owns(string(id)) {
			r.due[id] = nil
		}
	}
	if !there[bucket.DueFolder.Folder()] {
		return r, nil
	}
	notes, err := bucket.ListDue(ctx, c.bucket, r.now)
	if err != nil {
		return nil, err
	}
	for name, keys := range notes {
		id, err := tenant.ParseID(name)
		if err == nil && c.owns(name) {
			r.due[id] = append(r.due[id], keys...)
		}
	}
	return r, nil
}

// ownFolder has what compactors keep in the bucket, each kind in a folder.
const ownFolder = bucket.OwnHome + "/compactor"

// desk says which folders there are of what compactors keep: a folder without
// objects is none, and most rounds find little.
func (c *Compactor) desk(ctx context.Context) (map[bucket.Key]bool, error) {
	there := map[bucket.Key]bool{}
	for obj, err := range c.bucket.List(ctx, ownFolder.Folder(), false) {
		if err != nil {
			return nil, fmt.Errorf("look for work: %w", err)
		}
		there[obj.Key] = true
	}
	return there, nil
}

// keeps says whether a tenant's samples in a block that ends before maxT are
// still to be kept.
func (c *Compactor) keeps(r *round, id tenant.ID, maxT int64) bool {
	if r.deleting[id] {
		return false
	}
	keep := time.Duration(c.limits(id).Retention)
	return keep == 0 || maxT > r.now.Add(-keep).UnixMilli()
}

// newNote tells notes of one tenant and hour apart.
func newNote() string { return ulid.Make().String() }
