package storegateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

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
)

// catalogue knows which blocks each home has. It reads a home's index when it
// is first asked for, and again when what it has is older than interval and
// somebody asks. Never is the bucket scanned.
type catalogue struct {
	bucket   bucket.Bucket
	interval time.Duration
	logger   *slog.Logger
	metrics  *metrics

	mu      sync.Mutex
	homes   map[bucket.Key]*home
	stopped bool

	base    context.Context // refreshes outlive the queries that asked for them
	running sync.WaitGroup
}

// home is guarded by catalogue.mu.
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

func newCatalogue(base context.Context, b bucket.Bucket, interval time.Duration, logger *slog.Logger, m *metrics) *catalogue {
	return &catalogue{
		bucket:   b,
		interval: interval,
		logger:   logger,
		metrics:  m,
		homes:    map[bucket.Key]*home{},
		base:     base,
	}
}

// index returns the list of a home's blocks, read after the given time (the
// zero time: as of now, give or take the interval). The caller does not change
// what it gets.
func (c *catalogue) index(ctx context.Context, key bucket.Key, after time.Time) (*bucket.Index, error) {
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
func (c *catalogue) look(key bucket.Key, after time.Time) (*bucket.Index, *refresh, error) {
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
		return nil, nil, errStopped()
	}
	h.refresh = &refresh{started: now, done: make(chan struct{})}
	c.running.Add(1)
	go c.run(key, h, h.refresh)
	return usable, h.refresh, nil
}

// run carries out a refresh.
func (c *catalogue) run(key bucket.Key, h *home, r *refresh) {
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
		c.metrics.refreshes.WithLabelValues("failure").Inc()
		c.logger.Warn("list of blocks cannot be read, will retry", "home", key, "age", age(h.readAt), "err", err)
		return
	}
	h.refresh = nil
	what := "unchanged"
	if idx != old {
		what = "changed"
		h.fullAt = r.started
	}
	c.metrics.refreshes.WithLabelValues(what).Inc()
	// Current as of the start: what changed meanwhile may have been missed.
	h.index, h.etag, h.readAt = idx, etag, r.started
}

// read returns the index of a home: old itself if it has not changed. One that
// was made by listing is believed only while it is fresh, unless it could be
// stored for the next to read.
func (c *catalogue) read(ctx context.Context, key bucket.Key, old *bucket.Index, etag string, fresh bool) (*bucket.Index, string, error) {
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

// expire has a home's list looked at again by the next query.
func (c *catalogue) expire(key bucket.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.homes[key]; h != nil {
		if old := time.Now().Add(-c.interval); h.readAt.After(old) {
			h.readAt = old
		}
	}
}

// forget drops homes that nobody has asked for lately.
func (c *catalogue) forget(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.homes {
		busy := h.refresh != nil && h.refresh.ended.IsZero()
		if !busy && now.Sub(h.askedAt) > homeIdle {
			delete(c.homes, key)
		}
	}
}

// gone says that a home's current list is known and does not have a block.
func (c *catalogue) gone(k blockKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.homes[k.home]
	if h == nil || h.index == nil || time.Since(h.readAt) > maxStale {
		return false
	}
	return h.index.Block(k.id) == nil
}

func age(t time.Time) string {
	if t.IsZero() {
		return "never read"
	}
	return time.Since(t).Round(time.Second).String()
}

// stop waits for refreshes, which end with the base context.
func (c *catalogue) stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.running.Wait()
}
