package ring

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/grafana/dskit/kv"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/grafana/dskit/services"

	"github.com/hearth-metrics/hearth/tenant"
)

const (
	// seriesPerMember is how many of a tenant's series one ingester is meant to
	// hold. Beyond it the tenant is spread over more of them.
	seriesPerMember = 100_000

	// shardNotice is how long before a new size holds for writes it is known,
	// so that whoever reads asks the members that will be written to.
	shardNotice = 30 * time.Second

	shardTick    = 10 * time.Second
	shardsKey    = "shards"
	countsAreNew = 10 * time.Minute // how long a member's count of series is believed
)

// Shards knows over how many members each tenant's data is spread: as many as
// hold one copy each for a small tenant, more the more active series it has, or
// what its limits say. Sizes other than the smallest are shared with all
// members. It is a service. Safe for concurrent use.
type Shards struct {
	services.Service

	smallest int
	fixed    func(tenant.ID) int // what the tenant's limits say; 0: nothing
	store    kv.Client
	logger   *slog.Logger
	now      func() time.Time

	mu     sync.Mutex
	sizes  shardSizes
	counts map[tenant.ID]map[string]seriesCount // by member
}

type seriesCount struct {
	series int
	at     time.Time
}

// shardSize is a tenant's size, and the one before it. Times are in
// milliseconds.
type shardSize struct {
	Size      int   `json:"size"`
	Since     int64 `json:"since"` // from then on writes go to Size members, until then to Prev
	Prev      int   `json:"prev"`
	PrevUntil int64 `json:"prev_until"` // until then reads ask as many as Prev, too
}

// Shards makes the sizes that members of the cluster share.
func (c *Cluster) Shards(fixed func(tenant.ID) int) (*Shards, error) {
	store, err := c.Store(shardsKey, ShardsCodec{})
	if err != nil {
		return nil, err
	}
	s := &Shards{
		smallest: c.members.replicationFactor(), fixed: fixed, store: store, logger: c.logger, now: time.Now,
		sizes: shardSizes{}, counts: map[tenant.ID]map[string]seriesCount{},
	}
	s.Service = services.NewBasicService(s.learn, s.run, nil)
	return s, nil
}

// learn reads what others have shared. A watch tells of changes only, not of what
// was there when it began.
func (s *Shards) learn(ctx context.Context) error {
	v, err := s.store.Get(ctx, shardsKey)
	if err != nil {
		return fmt.Errorf("read sizes of shards: %w", err)
	}
	s.hear(v)
	return nil
}

// run follows what others share, and shares what has changed here.
func (s *Shards) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		s.store.WatchKey(ctx, shardsKey, func(v any) bool {
			s.hear(v)
			return true
		})
	})
	tick := time.NewTicker(shardTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.learn(ctx); err != nil {
				s.logger.Warn("sizes of shards not read, will retry", "err", err)
			}
			s.share(ctx)
		}
	}
}

func (s *Shards) hear(v any) {
	if sizes, ok := v.(shardSizes); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sizes = maps.Clone(sizes)
	}
}

// Observe tells how many active series of a tenant a member holds.
func (s *Shards) Observe(id tenant.ID, member string, series int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := s.counts[id]
	if counts == nil {
		counts = map[string]seriesCount{}
		s.counts[id] = counts
	}
	counts[member] = seriesCount{series, s.now()}
}

// Writes is the number of members that a tenant's writes go to.
func (s *Shards) Writes(id tenant.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.sizes[string(id)]
	switch {
	case !ok:
		return s.smallest
	case s.now().UnixMilli() < e.Since:
		return max(s.smallest, e.Prev)
	default:
		return max(s.smallest, e.Size)
	}
}

// Reads is the number of members that may have data of the tenant.
func (s *Shards) Reads(id tenant.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.sizes[string(id)]
	n := max(s.smallest, e.Size)
	if s.now().UnixMilli() < e.PrevUntil {
		n = max(n, e.Prev)
	}
	return n
}

// share publishes the sizes that tenants seen here have outgrown, or that their
// limits have changed.
func (s *Shards) share(ctx context.Context) {
	wanted := s.wanted()
	if len(wanted) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, shardTick)
	defer cancel()
	err := s.store.CAS(ctx, shardsKey, func(in any) (any, bool, error) {
		sizes, ok := in.(shardSizes)
		if !ok {
			sizes = shardSizes{}
		}
		sizes = maps.Clone(sizes)
		changed := false
		for id, size := range wanted {
			changed = sizes.change(string(id), size, s.smallest, s.fixed(id) > 0, s.now()) || changed
		}
		if !changed {
			return nil, false, nil
		}
		return sizes, true, nil
	})
	if err != nil {
		s.logger.Warn("sizes of shards not shared, will retry", "err", err)
	}
}

// wanted is the size of each tenant seen lately.
func (s *Shards) wanted() map[tenant.ID]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[tenant.ID]int{}
	for id, counts := range s.counts {
		total := 0
		for member, c := range counts {
			if s.now().Sub(c.at) > countsAreNew {
				delete(counts, member)
				continue
			}
			total += c.series
		}
		if len(counts) == 0 {
			delete(s.counts, id)
			continue
		}
		size := max(s.smallest, (total+seriesPerMember-1)/seriesPerMember)
		if n := s.fixed(id); n > 0 {
			size = max(s.smallest, n)
		}
		if e, ok := s.sizes[string(id)]; (ok && e.Size != size) || (!ok && size > s.smallest) {
			wanted[id] = size
		}
	}
	return wanted
}

// shardSizes is what is shared, by tenant.
type shardSizes map[string]shardSize

// change sets a tenant's size, and says whether that is a change. What follows
// from the number of series only grows: series that moved on are counted where
// they were for hours, and a tenant whose series come and go would be moved
// again and again.
func (z shardSizes) change(id string, size, smallest int, fixed bool, now time.Time) bool {
	old, ok := z[id]
	if !ok {
		old.Size = smallest
	}
	if size == old.Size || (size < old.Size && !fixed) {
		return false
	}
	prev := old.Size
	if now.UnixMilli() < old.PrevUntil {
		prev = max(prev, old.Prev)
	}
	z[id] = shardSize{
		Size: size, Since: max(old.Since+1, now.Add(shardNotice).UnixMilli()),
		Prev: prev, PrevUntil: now.Add(shardNotice + lookback).UnixMilli(),
	}
	return true
}

// Merge implements memberlist.Mergeable: the later change holds, of two at the
// same time the larger size.
func (z shardSizes) Merge(other memberlist.Mergeable, _ bool) (memberlist.Mergeable, error) {
	o, ok := other.(shardSizes)
	if !ok {
		return nil, fmt.Errorf("merge sizes of shards: got a %T", other)
	}
	change := shardSizes{}
	for id, e := range o {
		if have, known := z[id]; !known || have.before(e) {
			z[id], change[id] = e, e
		}
	}
	if len(change) == 0 {
		return nil, nil //nolint:nilnil // memberlist wants it so
	}
	return change, nil
}

func (e shardSize) before(o shardSize) bool {
	if e.Since != o.Since {
		return e.Since < o.Since
	}
	if e.Size != o.Size {
		return e.Size < o.Size
	}
	if e.Prev != o.Prev {
		return e.Prev < o.Prev
	}
	return e.PrevUntil < o.PrevUntil
}

// MergeContent implements memberlist.Mergeable.
func (z shardSizes) MergeContent() []string {
	names := make([]string, 0, len(z))
	for id := range z {
		names = append(names, id)
	}
	return names
}

// RemoveTombstones implements memberlist.Mergeable. There are none: only
// tenants that are large, or were, have an entry.
func (shardSizes) RemoveTombstones(time.Time) (total, removed int) { return 0, 0 }

// Clone implements memberlist.Mergeable.
func (z shardSizes) Clone() memberlist.Mergeable { return maps.Clone(z) }

// ShardsCodec writes sizes of shards for the store, as JSON.
type ShardsCodec struct{}

// CodecID implements codec.Codec.
func (ShardsCodec) CodecID() string { return "hearth-shards" }

// Encode implements codec.Codec.
func (ShardsCodec) Encode(v any) ([]byte, error) { return json.Marshal(v) }

// Decode implements codec.Codec.
func (ShardsCodec) Decode(data []byte) (any, error) {
	sizes := shardSizes{}
	if err := json.Unmarshal(data, &sizes); err != nil {
		return nil, fmt.Errorf("decode sizes of shards: %w", err)
	}
	return sizes, nil
}
