package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

const (
	relistInterval = 5 * time.Minute // where no index object can be kept, lists are made by listing, which is dear
	homeIdle       = time.Hour       // homes that nobody asks for are forgotten
	forgetInterval = time.Minute
)

// Catalogue knows which blocks each home has. It reads a home's index when it
// is first asked for, and again when what it has is older than interval and
// somebody asks. Most tenants live in the pool and have no home of their own:
// one list of the homes that there are saves looking for each of theirs. Never
// is more of the bucket listed than that. It is a service.
type Catalogue struct {
	services.Service

	bucket   bucket.Bucket
	interval time.Duration
	logger   *slog.Logger

	refreshes *prometheus.CounterVec
	reg       prometheus.Registerer

	mu      sync.Mutex
	homes   map[bucket.Key]*known[listing]
	folders *known[folders]
	stopped bool

	base    context.Context // refreshes outlive the queries that asked for them
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// listing is a home's index.
type listing struct {
	*bucket.Index
	etag   string
	fullAt time.Time // when it was read, not just looked at
}

// folders is the first level of the bucket: the homes of tenants, among others.
type folders map[bucket.Key]struct{}

// NewCatalogue makes a Catalogue of the blocks in b.
func NewCatalogue(cfg Config, b bucket.Bucket, logger *slog.Logger, reg prometheus.Registerer) *Catalogue {
	c := &Catalogue{
		bucket:   b,
		interval: time.Duration(cfg.RefreshInterval),
		logger:   logger,
		reg:      reg,
		refreshes: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_querier_bucket_index_refreshes_total",
			Help: "Looks at the list of blocks of a home, or at the list of homes, by outcome (unchanged, changed or failure).",
		}, []string{"outcome"}),
		homes: map[bucket.Key]*known[listing]{},
	}
	c.folders = &known[folders]{what: "homes", read: c.listFolders}
	c.base, c.cancel = context.WithCancel(context.Background())
	c.Service = services.NewBasicService(nil, c.run, c.stop)
	return c
}

// run forgets homes that nobody asks for.
func (c *Catalogue) run(ctx context.Context) error {
	tick := time.NewTicker(forgetInterval)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			c.forget(now)
		case <-ctx.Done():
			return nil
		}
	}
}

// index returns the list of a home's blocks, read after the given time (the
// zero time: as of now, give or take the interval). The caller does not change
// what it gets.
func (c *Catalogue) index(ctx context.Context, key bucket.Key, after time.Time) (*bucket.Index, error) {
	c.mu.Lock()
	h := c.homes[key]
	if h == nil {
		h = &known[listing]{what: string(key), read: func(ctx context.Context, old *listing) (*listing, error) { return c.readList(ctx, key, old) }}
		c.homes[key] = h
	}
	c.mu.Unlock()
	l, err := current(ctx, c, h, after)
	if err != nil {
		return nil, err
	}
	return l.Index, nil
}

// own is index of a tenant's own home, which most do not have.
func (c *Catalogue) own(ctx context.Context, id tenant.ID, after time.Time) (*bucket.Index, error) {
	home := bucket.TenantHome(string(id))
	there, err := current(ctx, c, c.folders, time.Time{})
	if err != nil {
		return nil, err
	}
	if _, ok := (*there)[home]; !ok {
		return &bucket.Index{}, nil
	}
	return c.index(ctx, home, after)
}

// readList returns the index of a home: old itself if it has not changed. One
// that was made by listing is believed only while it is fresh, unless it could
// be stored for the next to read.
func (c *Catalogue) readList(ctx context.Context, key bucket.Key, old *listing) (*listing, error) {
	began := time.Now()
	if old != nil && (began.Sub(old.fullAt) < relistInterval || old.Rebuilt == "") {
		obj, err := c.bucket.Stat(ctx, bucket.IndexKey(key))
		absent := errors.Is(err, bucket.ErrNotFound)
		switch {
		case err == nil && obj.ETag == old.etag, absent && old.etag == "":
			return old, nil
		case err != nil && !absent:
			return nil, fmt.Errorf("look at index of %s: %w", key, err)
		}
	}
	idx, etag, err := bucket.ReadIndex(ctx, c.bucket, key)
	if err != nil {
		return nil, fmt.Errorf("read index of %s: %w", key, err)
	}
	return &listing{idx, etag, began}, nil
}

// listFolders lists the homes that there are, a request for each thousand.
func (c *Catalogue) listFolders(ctx context.Context, old *folders) (*folders, error) {
	there := folders{}
	for obj, err := range c.bucket.List(ctx, "", false) {
		if err != nil {
			return nil, fmt.Errorf("list homes: %w", err)
		}
		if home, ok := strings.CutSuffix(string(obj.Key), "/"); ok {
			there[bucket.Key(home)] = struct{}{}
		}
	}
	if old != nil && maps.Equal(*old, there) {
		return old, nil
	}
	return &there, nil
}

// forget drops homes that nobody has asked for lately.
func (c *Catalogue) forget(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.homes {
		busy := h.refresh != nil && h.refresh.ended.IsZero()
		if !busy && now.Sub(h.askedAt) > homeIdle {
			delete(c.homes, key)
		}
	}
}

// stop ends refreshes and waits for them.
func (c *Catalogue) stop(error) error {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.cancel()
	c.running.Wait()
	return nil
}
