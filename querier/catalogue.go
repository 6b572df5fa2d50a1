package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hearth-metrics/hearth/bucket"
)

const (
	// maxStale bounds the age of a list of blocks that queries are answered
	// from while the bucket cannot be read. It is below the time for which
	// ingesters keep what they have shipped.
	maxStale = 5 * time.Minute

	refreshTimeout  = time.Minute
	refreshPatience = 2 * time.Second // how long a query with a usable list waits for a newer one
	refreshPause    = time.Second     // between failures
	relistInterval  = 5 * time.Minute // where no index object can be kept, lists are made by listing, which is dear
	homeIdle        = time.Hour       // homes that nobody asks for are forgotten
	forgetInterval  = time.Minute
)

// Catalogue knows which blocks each home has. It reads a home's index when it
// is first asked for, and again when what it has is older than interval and
// somebody asks. Never is the bucket scanned. It is a service.
type Catalogue struct {
	services.Service

	bucket   bucket.Bucket
	interval time.Duration
	logger   *slog.Logger

	refreshes *prometheus.CounterVec
	reg       prometheus.Registerer

	mu      sync.Mutex
	homes   map[bucket.Key]*home
	stopped bool

	base    context.Context // refreshes outlive the queries that asked for them
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// home is guarded by Catalogue.mu.
type home struct {
	index   *bucket.Index // nil: never read
	etag    string
	readAt  time.Time // when index was last known to be current
	fullAt  time.Time // when it was last read, not just looked at
	askedAt time.Time
	refresh *refresh // under way, or the last one, if it failed
}

type refresh struct {
	started time.Time
	done    chan struct{}
	ended   time.Time // set before done is closed
	err     error
}

// NewCatalogue makes a Catalogue of the blocks in b.
func NewCatalogue(cfg Config, b bucket.Bucket, logger *slog.Logger, reg prometheus.Registerer) *Catalogue {
	c := &Catalogue{
		bucket:   b,
		interval: time.Duration(cfg.RefreshInterval),
		logger:   logger,
		reg:      reg,
		refreshes: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_querier_bucket_index_refreshes_total",
			Help: "Looks at the list of blocks of a home, by outcome (unchanged, changed or failure).",
		}, []string{"outcome"}),
		homes: map[bucket.Key]*home{},
	}
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
	for {
		idx, r, err := c.look(key, after)
		if r == nil {
			return idx, err
		}
		// With a list that will do, a bucket that hangs holds the query up for
		// a moment only.
		var enough <-chan time.Time
		if idx != nil {
			t := time.NewTimer(time.Until(r.started.Add(refreshPatience)))
			defer t.Stop()
			enough = t.C
		}
		select {
		case <-r.done:
		case <-enough:
			return idx, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// look returns an answer, or the refresh to wait for before looking again;
// with a refresh may come an index that is stale but usable.
func (c *Catalogue) look(key bucket.Key, after time.Time) (*bucket.Index, *refresh, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	now := time.Now()
	h := c.homes[key]
	if h == nil {
		h = &home{}
		c.homes[key] = h
	}
	h.askedAt = now
	if h.index != nil && now.Sub(h.readAt) < c.interval && h.readAt.After(after) {
		return h.index, nil, nil
	}
	var usable *bucket.Index
	if h.index != nil && now.Sub(h.readAt) < maxStale && after.IsZero() {
		usable = h.index
	}
	switch r := h.refresh; {
	case r != nil && r.ended.IsZero():
		return usable, r, nil
	case r != nil && now.Sub(r.ended) < refreshPause && r.started.After(after):
		if usable != nil {
			return usable, nil, nil
		}
		return nil, nil, errCatalogue()
	}
	if c.stopped {
		return nil, nil, errStoreStopped()
	}
	h.refresh = &refresh{started: now, done: make(chan struct{})}
	c.running.Add(1)
	go c.carryOut(key, h, h.refresh)
	return usable, h.refresh, nil
}

// carryOut does a refresh.
func (c *Catalogue) carryOut(key bucket.Key, h *home, r *refresh) {
	defer c.running.Done()
	defer close(r.done)

	ctx, cancel := context.WithTimeout(c.base, refreshTimeout)
	defer cancel()
	c.mu.Lock()
	old, etag, fresh := h.index, h.etag, time.Since(h.fullAt) < relistInterval
	c.mu.Unlock()
	idx, etag, err := c.read(ctx, key, old, etag, fresh)

	c.mu.Lock()
	defer c.mu.Unlock()
	r.ended, r.err = time.Now(), err
	if err != nil {
		c.refreshes.WithLabelValues("failure").Inc()
		c.logger.Warn("list of blocks cannot be read, will retry", "home", key, "age", age(h.readAt), "err", err)
		return
	}
	h.refresh = nil
	what := "unchanged"
	if idx != old {
		what = "changed"
		h.fullAt = r.started
	}
	c.refreshes.WithLabelValues(what).Inc()
	// Current as of the start: what changed meanwhile may have been missed.
	h.index, h.etag, h.readAt = idx, etag, r.started
}

// read returns the index of a home: old itself if it has not changed. One that
// was made by listing is believed only while it is fresh, unless it could be
// stored for the next to read.
func (c *Catalogue) read(ctx context.Context, key bucket.Key, old *bucket.Index, etag string, fresh bool) (*bucket.Index, string, error) {
	if old != nil && (fresh || old.Rebuilt == "") {
		obj, err := c.bucket.Stat(ctx, bucket.IndexKey(key))
		absent := errors.Is(err, bucket.ErrNotFound)
		switch {
		case err == nil && obj.ETag == etag, absent && etag == "":
			return old, etag, nil
		case err != nil && !absent:
			return nil, "", fmt.Errorf("look at index of %s: %w", key, err)
		}
	}
	idx, etag, err := bucket.ReadIndex(ctx, c.bucket, key)
	if err != nil {
		return nil, "", fmt.Errorf("read index of %s: %w", key, err)
	}
	return idx, etag, nil
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

func age(t time.Time) string {
	if t.IsZero() {
		return "never read"
	}
	return time.Since(t).Round(time.Second).String()
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
