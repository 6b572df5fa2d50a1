package distributor

import (
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
)

// haTracker knows, for each pair of Prometheus, which replica is elected: the
// one whose samples are stored. The first to send is elected. Another takes
// over with the first request that it sends after no sample of the elected one
// has come for the timeout, to this distributor or, as far as has been heard
// (ha_share.go), to any.
//
// What is measured is always the time since something happened here: a sample
// came, or the news that one came elsewhere. So clocks may disagree. The news
// goes out with the first sample after haRefresh, so it is there before a
// timeout ends, with time left for the gossip, if replicas send at least every
// half of it; a pair that sends less often teaches its own timeout.
//
// Until it is known that the elected replica lives, requests of the others are
// held (ha_hold.go), and stored when one of them takes over. A distributor that
// restarts, is cut off, or takes a live replica for a dead one may store some
// samples of both, which are two views of the same targets. It never drops
// what nobody has stored, as long as there is room to hold it.
type haTracker struct {
	cfg     HAConfig
	store   HAStore // nil: this process is the only distributor
	logger  *slog.Logger
	metrics *haMetrics
	now     func() time.Time
	wake    chan struct{} // there was an election, tell the others
	due     chan struct{} // something is in ready

	mu      sync.Mutex
	tenants map[tenant.ID]*haTenant
	news    map[haKey]struct{} // of which others have not been told
	ready   []*heldRequest     // to be stored, for their replica is now elected
	held    int                // bytes held, those in ready included
}

type haTenant struct {
	pairs map[string]*haPair // by cluster
	held  int                // bytes
}

// haPair is what this distributor knows of a pair.
type haPair struct {
	haEntry
	key haKey

	seen      time.Time // when the elected replica last gave a sign of life
	refreshAt time.Time // its next sign of life is news for others from then on
	pauses    pauses    // between its signs of life
	other     string    // a replica that is not elected, and when it last sent
	otherAt   time.Time
	replaced  bool           // other was elected until it fell silent, and has not sent since
	held      []*heldRequest // of replicas not elected, in the order in which they came
}

const (
	haForget     = 30 * time.Minute // a pair that has not sent for so long is deleted,
	haTombstones = 10 * time.Minute // and so long after that nothing is left of it
)

func newHATracker(cfg HAConfig, store HAStore, logger *slog.Logger, m *haMetrics) *haTracker {
	return &haTracker{
		cfg: cfg, store: store, logger: logger, metrics: m, now: time.Now,
		wake: make(chan struct{}, 1), due: make(chan struct{}, 1),
		tenants: map[tenant.ID]*haTenant{}, news: map[haKey]struct{}{},
	}
}

// haVerdict is what becomes of a replica's series.
type haVerdict uint8

const (
	haStored  haVerdict = iota
	haDropped           // the replica is not elected
	haTooMany           // the tenant may have no more pairs
)

// decide says what becomes of a request of a replica that came just now. The
// strings may be on loan.
func (t *haTracker) decide(id tenant.ID, l *tenant.Limits, cluster, replica string) haVerdict {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pair(id, cluster)
	if p != nil && p.replaced && p.other == replica { // it had only paused
		p.pauses.add(now.Sub(p.otherAt), now, t.cfg)
		p.replaced = false
	}
	switch {
	case p == nil || p.deleted():
		if t.full(id, l.MaxHAClusters) {
			return haTooMany
		}
		t.elect(t.add(id, cluster), replica, now)
		t.metrics.elections.first.Inc()
	case p.replica == replica:
		t.alive(p, now)
	case now.Sub(p.seen) > p.pauses.timeout(t.cfg):
		t.logger.Info("replica of a Prometheus took over", "tenant", id, "cluster", p.key.cluster, "elected", replica, "before", p.replica, "silent", now.Sub(p.seen))
		t.elect(p, replica, now)
		t.metrics.elections.failover.Inc()
	default:
		if p.other != replica {
			p.other, p.replaced = strings.Clone(replica), false
		}
		p.otherAt = now
		return haDropped
	}
	return haStored
}

func (t *haTracker) pair(id tenant.ID, cluster string) *haPair {
	if ht := t.tenants[id]; ht != nil {
		return ht.pairs[cluster]
	}
	return nil
}

// add returns the pair, made anew if need be.
func (t *haTracker) add(id tenant.ID, cluster string) *haPair {
	ht := t.tenants[id]
	if ht == nil {
		ht = &haTenant{pairs: map[string]*haPair{}}
		t.tenants[id] = ht
	}
	p := ht.pairs[cluster]
	if p == nil {
		cluster = strings.Clone(cluster)
		p = &haPair{key: haKey{id, cluster}}
		ht.pairs[cluster] = p
	}
	return p
}

// full says whether the tenant has as many pairs as it may.
func (t *haTracker) full(id tenant.ID, limit int) bool {
	ht := t.tenants[id]
	if limit <= 0 || ht == nil || len(ht.pairs) < limit {
		return false
	}
	n := 0
	for _, p := range ht.pairs {
		if !p.deleted() {
			n++
		}
	}
	return n >= limit
}

// elect makes a replica the elected one, at once here, and soon everywhere.
func (t *haTracker) elect(p *haPair, replica string, now time.Time) {
	at := max(now.UnixMilli(), p.electedAt+1)
	before := p.replica
	p.haEntry = haEntry{replica: strings.Clone(replica), electedAt: at, receivedAt: at}
	t.takenOver(p, before, now)
	t.tell(p, now)
	wakeUp(t.wake)
}

// takenOver notes that a pair's elected replica is another than before.
func (t *haTracker) takenOver(p *haPair, before string, now time.Time) {
	p.replaced = before != "" && before != p.replica
	if p.replaced {
		p.other, p.otherAt = before, p.seen
	}
	p.seen = now
	t.letGo(p, now, p.replica)
}

// alive notes a sample of the elected replica.
func (t *haTracker) alive(p *haPair, now time.Time) {
	t.signOfLife(p, now)
	if t.store != nil && !now.Before(p.refreshAt) {
		p.receivedAt = max(now.UnixMilli(), p.receivedAt+1)
		t.tell(p, now)
	}
}

// signOfLife notes that a sample of the elected replica has come, here or
// elsewhere: nothing that others sent before will be needed.
func (t *haTracker) signOfLife(p *haPair, now time.Time) {
	p.pauses.add(now.Sub(p.seen), now, t.cfg)
	p.seen = now
	t.letGo(p, now.Add(-haSlack), "")
}

// tell marks a pair as changed. The next refresh has some jitter, so that not
// all distributors that get a replica's samples write at the same moment.
func (t *haTracker) tell(p *haPair, now time.Time) {
	if t.store == nil {
		return
	}
	t.news[p.key] = struct{}{}
	t.refreshLater(p, now)
}

func (t *haTracker) refreshLater(p *haPair, now time.Time) {
	after := haRefresh(t.cfg)
	p.refreshAt = now.Add(after - rand.N(after/4))
}

// haRefresh is how often distributors tell each other that a replica lives: so
// often that news and a pause of the replica of the same length and more fit
// into the timeout.
func haRefresh(cfg HAConfig) time.Duration { return time.Duration(cfg.FailoverTimeout) / 3 }

// forget deletes pairs that have not been seen for long, drops what is left of
// deleted ones, and lets go what was held for nothing.
func (t *haTracker) forget() {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, ht := range t.tenants {
		for cluster, p := range ht.pairs {
			t.letGo(p, now.Add(-2*p.pauses.timeout(t.cfg)), "")
			switch idle := now.Sub(p.seen); {
			case p.deleted() && idle > haForget+haTombstones:
				delete(ht.pairs, cluster)
			case !p.deleted() && idle > haForget:
				p.deletedAt = max(now.UnixMilli(), p.receivedAt)
				t.tell(p, now)
			}
		}
		if len(ht.pairs) == 0 && ht.held == 0 {
			delete(t.tenants, id)
		}
	}
}

// live is the number of pairs.
func (t *haTracker) live() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ht := range t.tenants {
		for _, p := range ht.pairs {
			if !p.deleted() {
				n++
			}
		}
	}
	return n
}

// pauses remembers the longest pause between signs of life, of a while.
type pauses struct {
	longest [2]time.Duration // in this while, and the one before
	since   time.Time        // when this while began
}

// add notes a pause. One much longer than the timeout is an outage, and not how
// the replica sends.
func (p *pauses) add(d time.Duration, now time.Time, cfg HAConfig) {
	timeout := time.Duration(cfg.FailoverTimeout)
	if now.Sub(p.since) > 10*timeout {
		p.longest, p.since = [2]time.Duration{0, p.longest[0]}, now
	}
	p.longest[0] = max(p.longest[0], min(d, 2*timeout))
}

// timeout is after which silence another replica may take over.
func (p *pauses) timeout(cfg HAConfig) time.Duration {
	return max(time.Duration(cfg.FailoverTimeout), max(p.longest[0], p.longest[1])*3/2)
}

// wakeUp signals without waiting; one signal waits for whoever is busy.
func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
