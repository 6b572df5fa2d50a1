package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	// tellTimeout is how long telling a replica may take.
	tellTimeout = 5 * time.Second
	// maxNews is how much may wait to be told; what is more is told with
	// everything else, by catchUp.
	maxNews = 1 << 20
)

// news is what the other replicas of a tenant have not been told yet. A
// goroutine tells them, and ends when there is nothing left to tell.
type news struct {
	in *instance

	mu       sync.Mutex
	silences []byte
	log      []byte
	telling  chan struct{}   // closed when all is told; nil: nobody tells
	upToDate map[string]bool // members that know all that was ever told
	changed  bool            // since the state was saved
	wg       sync.WaitGroup
}

// add is called by upstream's packages with a lock of theirs held, so it only
// puts aside.
func (n *news) add(silences, log []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changed = true
	if n.in.parent.place.members == nil {
		return
	}
	n.silences, n.log = append(n.silences, silences...), append(n.log, log...)
	if len(n.silences)+len(n.log) > maxNews {
		n.silences, n.log, n.upToDate = nil, nil, nil
	}
	if n.telling == nil {
		n.telling = make(chan struct{})
		n.wg.Go(n.tell)
	}
}

// tell tells the other replicas what is new, until there is nothing.
func (n *news) tell() {
	for {
		n.mu.Lock()
		s := &wire.AlertState{Tenant: string(n.in.id), Silences: n.silences, Log: n.log}
		n.silences, n.log = nil, nil
		if len(s.Silences)+len(s.Log) == 0 {
			close(n.telling)
			n.telling = nil
			n.mu.Unlock()
			return
		}
		n.mu.Unlock()
		n.toOthers(context.Background(), n.in.parent.place.others(n.in.id), s)
	}
}

// toOthers sends to members and remembers who did not get it.
func (n *news) toOthers(ctx context.Context, to []ring.Member, s *wire.AlertState) (all bool) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	errs := make([]error, len(to))
	var wg sync.WaitGroup
	for i, m := range to {
		wg.Go(func() {
			am, err := n.in.parent.place.to(m)
			if err == nil {
				_, err = am.Merge(ctx, s)
			}
			errs[i] = n.in.parent.metrics.done("tell", err)
		})
	}
	wg.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, m := range to {
		if errs[i] != nil {
			delete(n.upToDate, m.ID)
		}
	}
	return errors.Join(errs...) == nil
}

// told waits until the other replicas have been told, or cannot be.
func (n *news) told(ctx context.Context) {
	n.mu.Lock()
	telling := n.telling
	n.mu.Unlock()
	if telling == nil {
		return
	}
	select {
	case <-telling:
	case <-ctx.Done():
	}
}

func (n *news) close() { n.wg.Wait() }

// take says whether there is something that was not saved, and that it will be.
func (n *news) take() (changed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed, n.changed = n.changed, false
	return changed
}

// change says that there is something to save.
func (n *news) change() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changed = true
}

// settled says that all is saved, and nobody is being told anything.
func (n *news) settled() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.changed && n.telling == nil
}

// known says that members know, or will, all that is known here.
func (n *news) known(members []ring.Member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.upToDate == nil {
		n.upToDate = map[string]bool{}
	}
	for _, m := range members {
		n.upToDate[m.ID] = true
	}
}

// behind are those of the members that may have missed something. Who is not
// among the members is forgotten: it may come back without what it knew.
func (n *news) behind(others []ring.Member) (late []ring.Member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	still := map[string]bool{}
	for _, m := range others {
		if n.upToDate[m.ID] {
			still[m.ID] = true
		} else {
			late = append(late, m)
		}
	}
	n.upToDate = still
	return late
}

// catchUp tells replicas that are new, or that could not be told something,
// all that is known here. It says whether everyone knows it now.
func (in *instance) catchUp(ctx context.Context) bool {
	late := in.news.behind(in.parent.place.others(in.id))
	if len(late) == 0 {
		return true
	}
	in.news.known(late) // before the state is read: what fails to be told from now on takes it back
	s, err := in.state()
	if err != nil {
		in.logger.Warn("alertmanager state not read", "err", err)
		s = &wire.AlertState{Tenant: string(in.id)}
	}
	return in.news.toOthers(ctx, late, s) && err == nil
}

// state is all that is known here.
func (in *instance) state() (s *wire.AlertState, err error) {
	s = &wire.AlertState{Tenant: string(in.id)}
	if s.Silences, err = in.silences.MarshalBinary(); err != nil {
		return nil, fmt.Errorf("encode silences: %w", err)
	}
	if s.Log, err = in.log.MarshalBinary(); err != nil {
		return nil, fmt.Errorf("encode the notification log: %w", err)
	}
	it := in.alerts.GetPending()
	defer it.Close()
	alerts := []*alert.Alert{}
	for a := range it.Next() {
		alerts = append(alerts, a.Data)
	}
	if s.Alerts, err = json.Marshal(alerts); err != nil {
		return nil, fmt.Errorf("encode alerts: %w", err)
	}
	return s, nil
}

// merge adds what another replica knows. What is newer counts.
func (in *instance) merge(ctx context.Context, s *wire.AlertState) error {
	if err := in.silences.Merge(s.Silences); err != nil {
		return fmt.Errorf("merge silences: %w", err)
	}
	if err := in.log.Merge(s.Log); err != nil {
		return fmt.Errorf("merge the notification log: %w", err)
	}
	var alerts []*alert.Alert
	if len(s.Alerts) > 0 {
		if err := json.Unmarshal(s.Alerts, &alerts); err != nil {
			return fmt.Errorf("merge alerts: %w", err)
		}
	}
	in.taking.Lock()
	defer in.taking.Unlock()
	for _, a := range alerts {
		if have, err := in.alerts.Get(a.Fingerprint()); err == nil && !have.UpdatedAt.Before(a.UpdatedAt) {
			continue
		}
		if err := in.alerts.Put(ctx, a); err != nil {
			return fmt.Errorf("merge alerts: %w", err)
		}
		in.news.change()
	}
	return nil
}
