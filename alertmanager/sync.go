package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

const (
	// syncEvery is how soon this process sees that members have come or gone,
	// and tells replicas what they have missed.
	syncEvery = time.Second
	// listEvery is how soon a change is seen that nobody told us of.
	listEvery = 30 * time.Minute
	// saveEvery is how often a tenant's state is written, if it has changed.
	saveEvery = 15 * time.Minute
	// atOnce is how many tenants are opened, changed or closed at the same time.
	atOnce = 16
)

// run keeps the tenants that are here open. The first look is part of it, so
// that a bucket that is away, or hangs, does not keep the process from starting.
func (a *Alertmanager) run(ctx context.Context) error {
	tick, save := time.NewTicker(syncEvery), time.NewTicker(saveEvery)
	defer tick.Stop()
	defer save.Stop()
	a.sync(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.sync(ctx)
		case <-save.C:
			a.saveAll(ctx)
		}
	}
}

// sync opens tenants that are to be here, hands over those that are not any
// more, and tells replicas what they have missed.
func (a *Alertmanager) sync(ctx context.Context) {
	if time.Since(a.lastListed()) > listEvery {
		a.list(ctx)
	}
	g := new(errgroup.Group)
	g.SetLimit(atOnce)
	for _, id := range a.toChange() {
		g.Go(func() error {
			if err := a.change(ctx, id); err != nil && ctx.Err() == nil {
				a.logger.Warn("alertmanager not changed, will retry", "tenant", id, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // each has logged
	_ = a.each(ctx, func(ctx context.Context, in *instance) error {
		in.catchUp(ctx)
		a.letSleep(ctx, in)
		return nil
	})
}

func (a *Alertmanager) lastListed() time.Time {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.listed
}

func (a *Alertmanager) list(ctx context.Context) {
	began := time.Now()
	known, err := a.store.list(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.logger.Warn("alertmanager configurations not listed, will retry", "err", err)
		}
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known, a.listed = known, began
}

// toChange lists the tenants that are not as they should be.
func (a *Alertmanager) toChange() (ids []tenant.ID) {
	a.mu.RLock()
	known, open, asleep := maps.Clone(a.known), maps.Clone(a.tenants), maps.Clone(a.asleep)
	a.mu.RUnlock()
	for id, etag := range known {
		_, owner := a.place.position(id)
		in := open[id]
		if here := in != nil || asleep[id]; owner != here || (in != nil && in.etag() != etag) {
			ids = append(ids, id)
		}
	}
	for id := range joined(maps.Keys(open), maps.Keys(asleep)) {
		if _, ok := known[id]; !ok {
			ids = append(ids, id)
		}
	}
	return ids
}

var seed = maphash.MakeSeed()

// lock lets one change of a tenant happen at a time.
func (a *Alertmanager) lock(id tenant.ID) (unlock func()) {
	mu := &a.changing[maphash.String(seed, string(id))%uint64(len(a.changing))]
	mu.Lock()
	return mu.Unlock
}

// change makes a tenant as it should be: here, with its configuration, awake if
// it has something to do; or not here.
func (a *Alertmanager) change(ctx context.Context, id tenant.ID) error {
	defer a.lock(id)()
	in := a.get(id)
	_, owner := a.place.position(id)
	if in != nil && !owner && a.configured(id) {
		return a.metrics.done("hand_over", a.handOver(ctx, in))
	}
	v, etag, err := a.store.current(ctx, id)
	switch {
	case errors.Is(err, bucket.ErrNotFound):
		a.know(id, "")
		a.sleepHere(id, false)
		if in == nil {
			return nil
		}
		// Silences last longer than a configuration: whoever sends one again has them.
		a.drop(in)
		return in.save(ctx)
	case err != nil:
		return fmt.Errorf("read the configuration: %w", err)
	}
	a.know(id, etag)
	switch {
	case in != nil:
		return a.metrics.done("reload", in.apply(v.UserConfig, etag))
	case owner && !a.sleeps(id):
		return a.metrics.done("open", a.open(ctx, id, v.UserConfig, etag, (*instance).busy))
	default:
		a.sleepHere(id, owner)
		return nil
	}
}

func (a *Alertmanager) configured(id tenant.ID) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.known[id]
	return ok
}

// know remembers the ETag of a tenant's configuration; "": it has none.
func (a *Alertmanager) know(id tenant.ID, etag string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if etag == "" {
		delete(a.known, id)
		return
	}
	a.known[id] = etag
}

// open brings a tenant here. What the other replicas and the bucket know of
// silences and notifications is there before anything is sent. If it then is
// not wanted, it sleeps.
func (a *Alertmanager) open(ctx context.Context, id tenant.ID, c UserConfig, etag string, wanted func(*instance) bool) error {
	in, err := a.newInstance(id)
	if err != nil {
		return err
	}
	awake, err := in.restore(ctx)
	if err == nil && !wanted(in) {
		in.close()
		a.sleepHere(id, true)
		return nil
	}
	if err == nil {
		in.listen()
		err = in.apply(c, etag)
	}
	if err != nil {
		in.close()
		return err
	}
	a.mu.Lock()
	closed := a.closed
	if !closed {
		a.tenants[id] = in
		delete(a.asleep, id)
		in.join(awake)
	}
	a.mu.Unlock()
	if closed {
		in.close()
		return errNotHere()
	}
	return nil
}

// handOver closes a tenant when those that have it now know all that is known
// here. Until then it goes on: it is the last in the order, so it sends only
// what nobody else does.
func (a *Alertmanager) handOver(ctx context.Context, in *instance) error {
	if len(a.place.owners(in.id)) == 0 || !in.catchUp(ctx) {
		return errors.New("the new replicas do not know everything yet")
	}
	a.drop(in)
	return in.save(ctx)
}

// drop closes a tenant.
func (a *Alertmanager) drop(in *instance) {
	a.mu.Lock()
	delete(a.tenants, in.id)
	a.mu.Unlock()
	in.close()
}

// saveAll writes the states that have changed; one replica does it for all.
func (a *Alertmanager) saveAll(ctx context.Context) {
	_ = a.each(ctx, func(ctx context.Context, in *instance) error {
		in.collect()
		if n, _ := a.place.position(in.id); n > 0 {
			return nil
		}
		if err := a.metrics.done("save", in.save(ctx)); err != nil {
			a.logger.Warn("alertmanager state not saved, will retry", "tenant", in.id, "err", err)
		}
		return nil
	})
}

// each does something with all tenants, some at the same time.
func (a *Alertmanager) each(ctx context.Context, f func(context.Context, *instance) error) error {
	a.mu.RLock()
	all := slices.Collect(maps.Values(a.tenants))
	a.mu.RUnlock()
	var mu sync.Mutex
	var errs []error
	g := new(errgroup.Group)
	g.SetLimit(atOnce)
	for _, in := range all {
		g.Go(func() error {
			if err := f(ctx, in); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("tenant %s: %w", in.id, err))
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return errors.Join(errs...)
}
