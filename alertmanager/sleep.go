package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/dispatch"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// A tenant sleeps while it holds no alerts and nobody asks: then nothing can
// happen that anybody is to be told of. What it knows of silences and of what
// was sent is in the bucket, and it is woken by whoever wants something of it.

// idleAfter is how long a tenant stays awake after somebody asked.
const idleAfter = 10 * time.Minute

func (in *instance) done() { in.users.Add(-1) }

// unused says that nobody has asked for a while.
func (in *instance) unused() bool {
	return in.users.Load() == 0 && time.Since(time.Unix(0, in.used.Load())) > idleAfter
}

// busy says that there are alerts, or groups of alerts that ended and were not
// told of yet.
func (in *instance) busy() bool {
	if in.held.count.Load() > 0 {
		return true
	}
	in.mu.RLock()
	d := in.dispatcher
	in.mu.RUnlock()
	if d == nil {
		return false
	}
	groups, _, err := d.Groups(context.Background(), func(*dispatch.Route) bool { return true }, func(*alert.Alert, time.Time) bool { return true })
	return err != nil || len(groups) > 0
}

// letSleep puts a tenant to sleep if it may.
func (a *Alertmanager) letSleep(ctx context.Context, in *instance) {
	if !in.unused() || in.busy() {
		return
	}
	defer a.lock(in.id)()
	if !in.catchUp(ctx) {
		return // a replica does not know everything yet; the next round tries again
	}
	if err := a.metrics.done("sleep", in.save(ctx)); err != nil {
		a.logger.Warn("alertmanager stays awake, its state was not saved", "tenant", in.id, "err", err)
		return
	}
	a.mu.Lock()
	// Who uses it from now on wakes it: use needs mu.
	still := a.tenants[in.id] == in && in.unused() && in.news.settled() && !in.busy()
	if still {
		delete(a.tenants, in.id)
		a.asleep[in.id] = true
	}
	a.mu.Unlock()
	if still {
		in.close()
	}
}

// wake opens a tenant that sleeps.
func (a *Alertmanager) wake(ctx context.Context, id tenant.ID) error {
	defer a.lock(id)()
	if a.get(id) != nil {
		return nil // by another
	}
	v, etag, err := a.store.current(ctx, id)
	if errors.Is(err, bucket.ErrNotFound) {
		a.know(id, "")
		a.sleepHere(id, false)
		return errNotConfigured()
	}
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	a.know(id, etag)
	return a.metrics.done("open", a.open(ctx, id, v.UserConfig, etag, func(*instance) bool { return true }))
}

func (a *Alertmanager) sleeps(id tenant.ID) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.asleep[id]
}

// sleepHere says that a tenant that is not awake is here, or is not.
func (a *Alertmanager) sleepHere(id tenant.ID, here bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if here {
		a.asleep[id] = true
		return
	}
	delete(a.asleep, id)
}
