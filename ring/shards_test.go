package ring

import (
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// grow makes a tenant's shard as large as its limits say, as if the notice that
// is given of it were over.
func (p *process) grow(id tenant.ID, size int) {
	p.t.Helper()
	p.shards.mu.Lock()
	p.shards.now = func() time.Time { return time.Now().Add(-shardNotice - time.Second) }
	p.shards.mu.Unlock()
	p.shards.Observe(id, "a1", 1)
	p.shards.share(p.t.Context())
	p.shards.mu.Lock()
	p.shards.now = time.Now
	p.shards.mu.Unlock()
	require.Eventually(p.t, func() bool { return p.shards.Writes(id) == size }, patience, time.Millisecond)
}

// A shard grows with its series: readers look wider before writers spread, and
// hold on to what was after it became smaller.
func TestAShardGrowsWithItsSeries(t *testing.T) {
	t.Parallel()
	fixed := 0
	p := newProcess(t, "observer", "").start(func(tenant.ID) int { return fixed })
	now := time.Now()
	at := func(d time.Duration) {
		p.shards.mu.Lock()
		defer p.shards.mu.Unlock()
		p.shards.now = func() time.Time { return now.Add(d) }
	}
	at(0)
	require.Equal(t, 3, p.shards.Writes("t"))
	require.Equal(t, 3, p.shards.Reads("t"))

	p.shards.Observe("t", "one", 2*seriesPerMember)
	p.shards.Observe("t", "two", 3*seriesPerMember-1)
	p.shards.share(t.Context())
	require.Eventually(t, func() bool { return p.shards.Reads("t") == 5 }, patience, time.Millisecond)
	require.Equal(t, 3, p.shards.Writes("t"), "writes wait until readers know")
	at(shardNotice + time.Second)
	require.Equal(t, 5, p.shards.Writes("t"))

	p.shards.Observe("t", "one", 1)
	p.shards.Observe("t", "two", 1)
	p.shards.share(t.Context())
	require.Equal(t, 5, p.shards.Writes("t"), "it does not become smaller by itself")

	fixed = 4
	p.shards.share(t.Context())
	require.Eventually(t, func() bool {
		p.shards.mu.Lock()
		defer p.shards.mu.Unlock()
		return p.shards.sizes["t"].Size == 4
	}, patience, time.Millisecond)
	at(2*shardNotice + 2*time.Second)
	require.Equal(t, 4, p.shards.Writes("t"))
	require.Equal(t, 5, p.shards.Reads("t"), "what is there is still read")
	at(lookback + time.Hour)
	require.Equal(t, 4, p.shards.Reads("t"))
}

// Who comes later, or again, knows what the others know: were it to think that
// a shard is smaller, it would not ask all that have data.
func TestWhoComesLaterKnowsTheSizes(t *testing.T) {
	t.Parallel()
	six := func(tenant.ID) int { return 6 }
	one := newProcess(t, "one", "").start(six)
	one.grow("t", 6)
	two := newProcess(t, "two", "", one).start(six)
	require.Equal(t, 6, two.shards.Reads("t"))
	require.Equal(t, 6, two.shards.Writes("t"))
}

// Whatever the order in which members hear of changes, all come to the same.
func TestSizesOfShardsMergeInAnyOrder(t *testing.T) {
	t.Parallel()
	for range 2000 {
		var changes []shardSizes
		for range 4 {
			z := shardSizes{}
			for _, id := range []string{"a", "b"} {
				if rand.IntN(3) > 0 {
					z[id] = shardSize{Size: rand.IntN(3), Since: int64(rand.IntN(3)), Prev: rand.IntN(2), PrevUntil: int64(rand.IntN(2))}
				}
			}
			changes = append(changes, z)
		}
		merged := func(order []int) shardSizes {
			all := shardSizes{}
			for _, n := range order {
				before := maps.Clone(all)
				change, err := all.Merge(maps.Clone(changes[n]), false)
				require.NoError(t, err)
				if change == nil {
					require.Equal(t, before, all)
				} else {
					_, err = before.Merge(change, false)
					require.NoError(t, err)
					require.Equal(t, all, before, "the change is all that has changed")
				}
			}
			return all
		}
		require.Equal(t, merged([]int{0, 1, 2, 3}), merged(append(rand.Perm(4), rand.Perm(4)...)))
	}
}
