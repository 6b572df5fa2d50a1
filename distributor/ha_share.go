package distributor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// HAStore is where distributors tell each other which replicas are elected and
// alive. kv.Client of dskit is one; values are coded by HACodec. The election
// is decided by how values merge (haEntry.join), so it is enough if the store
// passes news on.
type HAStore interface {
	Get(ctx context.Context, key string) (any, error)
	CAS(ctx context.Context, key string, f func(in any) (out any, retry bool, err error)) error
	WatchPrefix(ctx context.Context, prefix string, f func(key string, value any) bool)
}

// The keys of the store. Their number never changes: a pair's key follows from
// its name, and distributors of different versions have to find it there.
const (
	haPrefix = "ha/"
	haKeys   = 64
)

func haKeyName(n int) string { return fmt.Sprintf("%s%02x", haPrefix, n) }

// shard is the number of the pair's key in the store.
func (k haKey) shard() int {
	return int(xxhash.Sum64String(string(k.tenant)+"/"+k.cluster) % haKeys)
}

const (
	haTick         = time.Second      // signs of life wait so long for others to go with them
	haStoreTimeout = 10 * time.Second // of one operation
)

// share tells others what happens here, and hears what happens there, until
// ctx ends. Elections are told at once, signs of life every second.
func (t *haTracker) share(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if t.store != nil {
		wg.Go(func() { t.listen(ctx) })
	}
	tick, round := time.NewTicker(haTick), time.NewTicker(haRefresh(t.cfg))
	defer tick.Stop()
	defer round.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
			t.tellAll(ctx)
		case <-tick.C:
			t.tellAll(ctx)
		case <-round.C:
			t.forget()
			t.hearAll(ctx) // what listen may have missed
		}
	}
}

// listen follows the store.
func (t *haTracker) listen(ctx context.Context) {
	for ctx.Err() == nil {
		t.store.WatchPrefix(ctx, haPrefix, func(_ string, v any) bool {
			t.hear(v)
			return true
		})
		// It ends early only if the store does; perhaps it comes back.
		select {
		case <-ctx.Done():
		case <-time.After(haTick):
		}
	}
}

// hearAll reads the whole store.
func (t *haTracker) hearAll(ctx context.Context) {
	if t.store == nil {
		return
	}
	for n := range haKeys {
		ctx, cancel := context.WithTimeout(ctx, haStoreTimeout)
		v, err := t.store.Get(ctx, haKeyName(n))
		cancel()
		if err != nil {
			t.logger.Warn("state of Prometheus pairs not read", "key", haKeyName(n), "err", err)
			return
		}
		t.hear(v)
	}
}

// hear takes in a value of the store.
func (t *haTracker) hear(v any) {
	s, ok := v.(haState)
	if !ok { // there is nothing yet
		return
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, e := range s {
		if p := t.pair(k.tenant, k.cluster); p != nil {
			t.hearOf(p, e, now)
			continue
		}
		// How long ago the replica was alive is not known. It gets the whole
		// timeout; what others send meanwhile is held.
		p := t.add(k.tenant, k.cluster)
		p.haEntry, p.seen = e, now
		t.refreshLater(p, now)
	}
}

// hearOf takes in what others know of a pair that is known here.
func (t *haTracker) hearOf(p *haPair, e haEntry, now time.Time) {
	was := p.haEntry
	p.haEntry = was.join(e)
	switch {
	case p.replica != was.replica:
		t.takenOver(p, was.replica, now)
		t.refreshLater(p, now)
		t.metrics.elections.heard.Inc()
	case p.electedAt != was.electedAt || p.receivedAt != was.receivedAt:
		t.signOfLife(p, now)
		t.refreshLater(p, now)
	}
}

// tellAll writes what is news.
func (t *haTracker) tellAll(ctx context.Context) {
	for n, news := range t.takeNews() {
		if err := t.tellKey(ctx, n, news); err != nil {
			t.metrics.failures.Inc()
			t.logger.Warn("state of Prometheus pairs not written", "key", haKeyName(n), "err", err)
			t.tellAgain(news)
		}
	}
}

// takeNews returns the pairs that have changed, by key of the store.
func (t *haTracker) takeNews() map[int]haState {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.news) == 0 {
		return nil
	}
	byKey := map[int]haState{}
	for k := range t.news {
		p := t.pair(k.tenant, k.cluster)
		if p == nil {
			continue
		}
		n := k.shard()
		if byKey[n] == nil {
			byKey[n] = haState{}
		}
		byKey[n][k] = p.haEntry
	}
	clear(t.news)
	return byKey
}

func (t *haTracker) tellAgain(news haState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range news {
		t.news[k] = struct{}{}
	}
}

// tellKey merges news into a value of the store. What the store knows better is
// heard from it, as always.
func (t *haTracker) tellKey(ctx context.Context, n int, news haState) error {
	ctx, cancel := context.WithTimeout(ctx, haStoreTimeout)
	defer cancel()
	return t.store.CAS(ctx, haKeyName(n), func(in any) (any, bool, error) {
		s, ok := in.(haState)
		if !ok {
			s = haState{}
		}
		change, err := s.Merge(news, true)
		if err != nil || change == nil {
			return nil, false, err
		}
		s.RemoveTombstones(t.now().Add(-haTombstones))
		return s, true, nil
	})
}
