package compactor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// sharedFolder has an object for each tenant whose jobs are many enough to be
// done by all compactors.
const sharedFolder = ownFolder + "/shared"

// state is what is known of a home. The pool is nobody else's, so it has only
// markers of our own, which are read when there is a job at all.
type state struct {
	home    bucket.Key
	index   *bucket.Index
	markers bucket.Markers
}

func (c *Compactor) look(ctx context.Context, home bucket.Key) (*state, error) {
	s := &state{home: home}
	var err error
	if s.index, _, err = bucket.ReadIndex(ctx, c.bucket, home); err != nil {
		return nil, err
	}
	if len(s.index.Blocks) == 0 || home == bucket.PoolHome {
		return s, nil
	}
	s.markers, err = bucket.ReadMarkers(ctx, c.bucket, home)
	return s, err
}

// live is the blocks that a compaction may take.
func (s *state) live() []bucket.IndexBlock {
	return slices.DeleteFunc(standing(s.index), func(b bucket.IndexBlock) bool { return s.markers.NoCompact[b.ID] })
}

// standing is the blocks of an index that are not to go: those that readers
// see.
func standing(x *bucket.Index) []bucket.IndexBlock {
	gone := map[ulid.ULID]bool{}
	for _, m := range x.BlockDeletionMarks {
		gone[m.ID] = true
	}
	var out []bucket.IndexBlock
	for _, b := range x.Blocks {
		if !gone[b.ID] {
			out = append(out, b)
		}
	}
	return out
}

// visit tidies up a tenant's own home, and notes when it is due again. The
// notes that it came for go last: whatever goes wrong, somebody comes again.
func (c *Compactor) visit(ctx context.Context, r *round, id tenant.ID) error {
	home := bucket.TenantHome(string(id))
	next, err := c.tidyOwn(ctx, r, id, home)
	if err != nil {
		return fmt.Errorf("tidy up %s: %w", home, err)
	}
	if !next.IsZero() {
		if err := bucket.NoteDue(ctx, c.bucket, string(id), next, newNote()); err != nil {
			return err
		}
	}
	for _, note := range r.due[id] {
		if err := c.bucket.Delete(ctx, note); err != nil {
			return fmt.Errorf("take note off: %w", err)
		}
	}
	return nil
}

// tidyOwn does what is due in a tenant's own home. next is when there will be
// more to do; the zero time: not before there are new blocks.
func (c *Compactor) tidyOwn(ctx context.Context, r *round, id tenant.ID, home bucket.Key) (next time.Time, err error) {
	s, err := c.look(ctx, home)
	if err != nil {
		return next, err
	}
	if r.deleting[id] {
		c.weigh(id, nil)
		return next, c.emptyHome(ctx, s)
	}
	c.weigh(id, standing(s.index)) // what follows can take long, or fail
	if s.markers.Tenant {          // another system's way to say so
		return r.now, RequestDeletion(ctx, c.bucket, id)
	}
	if err := c.chores(ctx, r, s, func(b *bucket.IndexBlock) bool { return !c.keeps(r, id, b.MaxTime) }); err != nil {
		return next, err
	}
	after, err := c.compactAll(ctx, r, s, c.cfg.OwnPart, never)
	if err != nil {
		return next, err
	}
	if err := c.share(ctx, id, after.others); err != nil {
		return next, err
	}
	if after.others > 0 {
		return r.now, nil // to see it end
	}
	c.weigh(id, standing(after.state.index))
	return c.nextDue(after, id), nil
}

// tidyPool does what is due in the pool. All compactors do its jobs, one does
// the chores.
func (c *Compactor) tidyPool(ctx context.Context, r *round) error {
	s, err := c.look(ctx, bucket.PoolHome)
	if err != nil {
		return fmt.Errorf("tidy up the pool: %w", err)
	}
	if c.owns(string(bucket.PoolHome)) {
		if err := c.chores(ctx, r, s, never); err != nil {
			return fmt.Errorf("tidy up the pool: %w", err)
		}
	}
	c.pooled.forget(s.index)
	c.weighPool(ctx, s.index) // what follows can take long, or fail
	purge := func(b *bucket.IndexBlock) bool {
		return c.owns(purgeKey(bucket.PoolHome, b.ID)) && c.mustPurge(ctx, r, b)
	}
	after, err := c.compactAll(ctx, r, s, c.cfg.PoolPart, purge)
	if err != nil {
		return fmt.Errorf("tidy up the pool: %w", err)
	}
	if after.state != s {
		c.weighPool(ctx, after.state.index)
	}
	return nil
}

// help does our jobs of tenants that are shared among all. Who finds that
// there are none any more takes the tenant off the list.
func (c *Compactor) help(ctx context.Context, r *round) error {
	if c.alone || !r.shared {
		return nil
	}
	var errs []error
	for obj, err := range c.bucket.List(ctx, sharedFolder.Folder(), false) {
		if err != nil {
			return fmt.Errorf("list shared work: %w", err)
		}
		id, err := tenant.ParseID(obj.Key.Base())
		if err == nil && !c.owns(string(id)) && !r.deleting[id] {
			errs = append(errs, c.helpWith(ctx, r, id, obj.Key))
		}
	}
	return errors.Join(errs...)
}

func (c *Compactor) helpWith(ctx context.Context, r *round, id tenant.ID, key bucket.Key) error {
	s, err := c.look(ctx, bucket.TenantHome(string(id)))
	if err != nil {
		return err
	}
	after, err := c.compactAll(ctx, r, s, c.cfg.OwnPart, never)
	if err != nil || after.others > 0 {
		return err
	}
	return c.bucket.Delete(ctx, key)
}

// never is for homes where blocks are removed whole.
func never(*bucket.IndexBlock) bool { return false }

// share tells the other compactors that a tenant has jobs for them.
func (c *Compactor) share(ctx context.Context, id tenant.ID, others int) error {
	if others == 0 {
		return nil
	}
	return putJSON(ctx, c.bucket, sharedFolder.Join(string(id)), struct {
		Jobs int `json:"jobs"`
	}{others})
}

// progress is what a home looks like after its compactions.
type progress struct {
	state  *state
	others int   // jobs that other compactors own
	next   int64 // ms
}

// compactAll does the jobs of a home that we own until none is left. Jobs of a
// home with few are all done by who comes for the home.
func (c *Compactor) compactAll(ctx context.Context, r *round, s *state, perPart uint64, purge func(*bucket.IndexBlock) bool) (*progress, error) {
	for {
		p := c.planner(s.home, r.now, perPart, purge)
		jobs, next := p.plan(s.live())
		if len(jobs) > 0 && s.home == bucket.PoolHome {
			var err error
			if s.markers, err = bucket.ReadMarkers(ctx, c.bucket, s.home); err != nil {
				return nil, err
			}
			jobs, next = p.plan(s.live())
		}
		var mine []job
		for _, j := range jobs {
			if c.isMine(s.home, &j) {
				mine = append(mine, j)
			}
		}
		done, err := c.doAll(ctx, r, mine)
		if err != nil {
			return nil, err
		}
		if done == 0 {
			return &progress{s, len(jobs) - len(mine), next}, nil
		}
		if s, err = c.look(ctx, s.home); err != nil {
			return nil, err
		}
	}
}

// isMine says whether we do a job. In the pool each job has an owner; in a
// tenant's home only the jobs of a tenant that is split are worth dividing.
func (c *Compactor) isMine(home bucket.Key, j *job) bool {
	if home == bucket.PoolHome || j.parts > 1 {
		return c.owns(j.key())
	}
	return c.owns(string(home))
}

func (c *Compactor) planner(home bucket.Key, now time.Time, perPart uint64, purge func(*bucket.IndexBlock) bool) *planner {
	p := &planner{home: home, wait: time.Duration(c.cfg.Wait).Milliseconds(), now: now.UnixMilli(), perPart: perPart, purge: purge}
	for _, r := range c.cfg.Ranges {
		p.ranges = append(p.ranges, time.Duration(r).Milliseconds())
	}
	return p
}

// doAll runs jobs, as many at once as there are slots, and returns how many
// have changed something.
func (c *Compactor) doAll(ctx context.Context, r *round, jobs []job) (done int, err error) {
	c.metrics.backlog.Add(float64(len(jobs)))
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, j := range jobs {
		wg.Go(func() {
			defer c.metrics.backlog.Dec()
			did, err := c.do(ctx, r, &j)
			mu.Lock()
			defer mu.Unlock()
			if did {
				done++
			}
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if done > 0 {
		return done, nil // what failed is planned again, and not ready before a while
	}
	return 0, errors.Join(errs...)
}

// do runs a job in a slot of its own.
func (c *Compactor) do(ctx context.Context, r *round, j *job) (did bool, err error) {
	if !c.backoff.ready(j.key(), time.Now()) {
		return false, fmt.Errorf("compact %s: it failed before, and waits to be tried again", j.key())
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	began := time.Now()
	err = c.run(ctx, r, j)
	c.metrics.duration.Observe(time.Since(began).Seconds())
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	var bad *badBlock
	switch {
	case err == nil:
		c.metrics.jobs.WithLabelValues("success").Inc()
	case errors.Is(err, errLost):
		c.metrics.jobs.WithLabelValues("lost").Inc()
		c.logger.Info("compaction was in vain, the blocks have changed meanwhile", "job", j.key())
		err = nil
	case errors.As(err, &bad):
		c.metrics.jobs.WithLabelValues("bad_block").Inc()
		err = c.condemn(ctx, j.home, bad)
	}
	c.backoff.note(j.key(), time.Now(), err)
	if err != nil {
		c.metrics.jobs.WithLabelValues("failure").Inc()
		return false, fmt.Errorf("compact %s: %w", j.key(), err)
	}
	return true, nil
}

// condemn marks a block so that compactions leave it out. Queries read it as
// before.
func (c *Compactor) condemn(ctx context.Context, home bucket.Key, bad *badBlock) error {
	if err := bucket.WriteNoCompactMark(ctx, c.bucket, home, bad.id, bad.err.Error(), time.Now()); err != nil {
		return err
	}
	c.metrics.marked.WithLabelValues("bad").Inc()
	c.logger.Error("block is bad and is left out of compactions from now on", "home", home, "block", bad.id, "err", bad.err)
	return nil
}

// nextDue is when a home has something to do again.
func (c *Compactor) nextDue(after *progress, id tenant.ID) time.Time {
	next := after.next
	if again := c.cleanAgain(after.state.home); !again.IsZero() {
		next = min(next, again.UnixMilli()+1)
	}
	for _, m := range after.state.index.BlockDeletionMarks {
		next = min(next, time.Unix(m.DeletionTime, 0).Add(time.Duration(c.cfg.DeletionDelay)).UnixMilli())
	}
	if keep := time.Duration(c.limits(id).Retention); keep > 0 {
		for _, b := range after.state.index.Blocks {
			if !after.state.index.Marked(b.ID) {
				next = min(next, b.MaxTime+keep.Milliseconds())
			}
		}
	}
	if next == math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMilli(next)
}
