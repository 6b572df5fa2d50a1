package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func stateKey(id tenant.ID) bucket.Key { return home.Join("state", string(id)+".json") }

// save writes the tenant's state to the bucket, if there is something new.
func (in *instance) save(ctx context.Context) (err error) {
	if !in.news.take() {
		return nil
	}
	for range maxConflicts {
		if err = in.trySave(ctx); !errors.Is(err, bucket.ErrPrecondition) {
			break
		}
	}
	if err != nil {
		in.news.change()
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// trySave adds what others have saved before it writes: a replica that was cut
// off from the others does not take away what it does not know.
func (in *instance) trySave(ctx context.Context) error {
	var saved wire.AlertState
	etag, err := in.parent.store.read(ctx, stateKey(in.id), &saved)
	cond := bucket.Condition{IfMatch: etag}
	if errors.Is(err, bucket.ErrNotFound) {
		cond, err = bucket.Condition{IfAbsent: true}, nil
	}
	if err != nil {
		return err
	}
	saved.Alerts = nil // those that matter are sent again all the time
	if err := in.merge(ctx, &saved); err != nil {
		return err
	}
	s, err := in.state()
	if err != nil {
		return err
	}
	if err := in.parent.store.write(ctx, stateKey(in.id), s, cond); err != nil {
		return err
	}
	// A tenant that is deleted may be known here for a while. It leaves nothing.
	forgotten, err := in.parent.store.forgotten(ctx, in.id)
	if err != nil || !forgotten {
		return err
	}
	return in.parent.store.bucket.Delete(ctx, stateKey(in.id))
}

// restoreTimeout bounds the wait for the other replicas; one that does not
// answer is told, and tells, later.
const restoreTimeout = 3 * time.Second

// restore brings what the bucket and the other replicas know. It fails where
// neither can be read: to send without knowing what was sent, or what is
// silenced, is worse than to send a little later. The replicas are asked first:
// what one knows that says it sleeps was saved by then. awake is how many of them
// may be sending meanwhile.
func (in *instance) restore(ctx context.Context) (awake int, err error) {
	awake, asleep := in.restoreFromOthers(ctx)
	var saved wire.AlertState
	_, err = in.parent.store.read(ctx, stateKey(in.id), &saved)
	if errors.Is(err, bucket.ErrNotFound) {
		err = nil
	}
	if err == nil {
		if saved.Alerts, err = prolong(saved.Alerts, time.Now()); err == nil {
			err = in.merge(ctx, &saved)
		}
	}
	switch {
	case err == nil:
		in.news.known(asleep) // when they wake, they read what this one has read
	case awake == 0:
		return 0, fmt.Errorf("restore state: %w", err)
	default:
		in.logger.Warn("alertmanager state of the bucket not read, that of the replicas was", "err", err)
	}
	return awake, nil
}

// join lets this replica send, where others are awake when they have been asked
// once more: what they sent after they were asked first they could not tell this
// one, which was not open yet. By then they have also seen that it is here, and
// leave it its turn.
func (in *instance) join(awake int) {
	if awake == 0 {
		close(in.joined)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	in.leave = func() { cancel(); <-over }
	go func() {
		defer close(over)
		select {
		case <-time.After(syncEvery):
			in.restoreFromOthers(ctx)
			close(in.joined)
		case <-ctx.Done():
		}
	}()
}

// restoreFromOthers asks all other replicas, and says how many have told what
// they know, and who sleeps.
func (in *instance) restoreFromOthers(ctx context.Context) (awake int, asleep []ring.Member) {
	others := in.parent.place.others(in.id)
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	states := make([]*wire.AlertState, len(others))
	var wg sync.WaitGroup
	for i, m := range others {
		wg.Go(func() {
			am, err := in.parent.place.to(m)
			if err == nil {
				states[i], err = am.State(ctx, &wire.StateRequest{Tenant: string(in.id)})
			}
			if err != nil { // not there yet, or not any more
				states[i] = nil
				in.logger.Debug("replica has not told its state", "instance", m.ID, "err", err)
			}
		})
	}
	wg.Wait()
	for i, s := range states {
		switch {
		case s == nil:
		case len(s.Alerts) == 0: // there is a list where one is awake
			asleep = append(asleep, others[i])
		case in.merge(ctx, s) == nil:
			awake++
		}
	}
	return awake, asleep
}

// prolongFor is how long an alert of a saved state is taken to fire: until
// those who send it have had time to do so again.
const prolongFor = 5 * time.Minute

// prolong keeps alerts that fired when the state was saved from being taken for
// resolved because nobody could send them while all replicas were away. Those
// that had ended, or are older than that, are left out.
func prolong(saved json.RawMessage, now time.Time) (json.RawMessage, error) {
	if len(saved) == 0 {
		return nil, nil
	}
	var alerts, firing []*alert.Alert
	if err := json.Unmarshal(saved, &alerts); err != nil {
		return nil, fmt.Errorf("read alerts: %w", err)
	}
	for _, a := range alerts {
		if a.EndsAt.Before(now) {
			continue
		}
		if until := now.Add(prolongFor); a.EndsAt.Before(until) {
			a.EndsAt = until
		}
		firing = append(firing, a)
	}
	return json.Marshal(firing)
}
