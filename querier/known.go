package querier

import (
	"context"
	"time"
)

const (
	// maxStale bounds the age of a list of blocks that queries are answered
	// from while the bucket cannot be read. It is below the time for which
	// ingesters keep what they have shipped.
	maxStale = 8 * time.Minute

	refreshTimeout  = time.Minute
	refreshPatience = 2 * time.Second // how long a query with a usable list waits for a newer one
	refreshPause    = time.Second     // between failures
)

// known is what a Catalogue knows of something in the bucket. It is guarded by
// Catalogue.mu.
type known[T any] struct {
	what string // for the log
	// read returns it as it is now: old itself, which is nil at first, if it
	// has not changed.
	read func(ctx context.Context, old *T) (*T, error)

	value   *T        // nil: never read; not changed afterwards
	readAt  time.Time // when value was last known to be current
	askedAt time.Time
	refresh *refresh // under way, or the last one, if it failed
}

type refresh struct {
	started time.Time
	done    chan struct{}
	ended   time.Time // set before done is closed
}

// current returns what is known, read after the given time (the zero time: as
// of now, give or take the interval).
func current[T any](ctx context.Context, c *Catalogue, k *known[T], after time.Time) (*T, error) {
	for {
		value, r, err := look(c, k, after)
		if r == nil {
			return value, err
		}
		// With a value that will do, a bucket that hangs holds the query up for
		// a moment only.
		var enough <-chan time.Time
		if value != nil {
			t := time.NewTimer(time.Until(r.started.Add(refreshPatience)))
			defer t.Stop()
			enough = t.C
		}
		select {
		case <-r.done:
		case <-enough:
			return value, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// look returns an answer, or the refresh to wait for before looking again;
// with a refresh may come a value that is stale but usable.
func look[T any](c *Catalogue, k *known[T], after time.Time) (*T, *refresh, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	now := time.Now()
	k.askedAt = now
	if k.value != nil && now.Sub(k.readAt) < c.interval && k.readAt.After(after) {
		return k.value, nil, nil
	}
	var usable *T
	if k.value != nil && now.Sub(k.readAt) < maxStale && after.IsZero() {
		usable = k.value
	}
	switch r := k.refresh; {
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
	k.refresh = &refresh{started: now, done: make(chan struct{})}
	c.running.Add(1)
	go carryOut(c, k, k.refresh)
	return usable, k.refresh, nil
}

// carryOut does a refresh.
func carryOut[T any](c *Catalogue, k *known[T], r *refresh) {
	defer c.running.Done()
	defer close(r.done)

	ctx, cancel := context.WithTimeout(c.base, refreshTimeout)
	defer cancel()
	c.mu.Lock()
	old := k.value
	c.mu.Unlock()
	value, err := k.read(ctx, old)

	c.mu.Lock()
	defer c.mu.Unlock()
	r.ended = time.Now()
	if err != nil {
		c.refreshes.WithLabelValues("failure").Inc()
		c.logger.Warn("list of blocks cannot be read, will retry", "home", k.what, "age", age(k.readAt), "err", err)
		return
	}
	k.refresh = nil
	what := "unchanged"
	if value != old {
		what = "changed"
	}
	c.refreshes.WithLabelValues(what).Inc()
	// Current as of the start: what changed meanwhile may have been missed.
	k.value, k.readAt = value, r.started
}

func age(t time.Time) string {
	if t.IsZero() {
		return "never read"
	}
	return time.Since(t).Round(time.Second).String()
}
