package querier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// spy is a bucket that counts requests, and lets a test have them fail.
type spy struct {
	bucket.Bucket

	mu    sync.Mutex
	calls map[string]int
	hook  func(op string, key bucket.Key) error
}

func newSpy(tb testing.TB) *spy {
	tb.Helper()
	cfg := bucket.DefaultConfig()
	cfg.Filesystem.Dir = tb.TempDir()
	b, err := bucket.New(cfg, "", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(tb, err)
	return &spy{Bucket: b, calls: map[string]int{}}
}

func (s *spy) see(op string, key bucket.Key) error {
	s.mu.Lock()
	s.calls[op]++
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op, key)
}

func (s *spy) setHook(hook func(op string, key bucket.Key) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// taken returns the requests since the last call.
func (s *spy) taken() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls
	s.calls = map[string]int{}
	return c
}

func (s *spy) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	if err := s.see("get", key); err != nil {
		return nil, bucket.Object{}, err
	}
	return s.Bucket.Get(ctx, key)
}

func (s *spy) Stat(ctx context.Context, key bucket.Key) (bucket.Object, error) {
	if err := s.see("stat", key); err != nil {
		return bucket.Object{}, err
	}
	return s.Bucket.Stat(ctx, key)
}

func (s *spy) List(ctx context.Context, prefix bucket.Key, recursive bool) iter.Seq2[bucket.Object, error] {
	if err := s.see("list", prefix); err != nil {
		return func(yield func(bucket.Object, error) bool) { yield(bucket.Object{}, err) }
	}
	return s.Bucket.List(ctx, prefix, recursive)
}

func requireUnavailable(tb testing.TB, err error, id string) {
	tb.Helper()
	var ue *wire.UserError
	require.ErrorAs(tb, err, &ue)
	require.Equal(tb, wire.Unavailable, ue.Kind)
	require.Equal(tb, id, ue.ID)
}

func newCatalogue(b bucket.Bucket) *Catalogue {
	cfg := DefaultConfig()
	cfg.RefreshInterval = model.Duration(30 * time.Second)
	return NewCatalogue(cfg, b, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// inBubble runs f with a catalogue that refreshes every 30 s of fake time, over
// a home that has one block.
func inBubble(t *testing.T, f func(t *testing.T, c *Catalogue, b *spy)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newSpy(t)
		addBlock(t, b, 1)
		c := newCatalogue(b)
		run(t, c)
		b.taken()
		f(t, c, b)
	})
}

func addBlock(t *testing.T, b bucket.Bucket, n byte) {
	t.Helper()
	err := bucket.UpdateIndex(context.Background(), b, "me", func(x *bucket.Index) error {
		x.AddBlock(bucket.IndexBlock{ID: ulid.ULID{15: n}, MinTime: 0, MaxTime: 10})
		return nil
	})
	require.NoError(t, err)
}

func count(t *testing.T, c *Catalogue) int {
	t.Helper()
	x, err := c.index(context.Background(), "me", time.Time{})
	require.NoError(t, err)
	return len(x.Blocks)
}

func TestListIsReadOnceForManyQueries(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *Catalogue, b *spy) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { count(t, c) })
		}
		wg.Wait()
		require.Equal(t, map[string]int{"get": 1}, b.taken())

		time.Sleep(29 * time.Second)
		require.Equal(t, 1, count(t, c))
		require.Empty(t, b.taken())
		time.Sleep(2 * time.Second)
		for range 20 {
			wg.Go(func() { count(t, c) })
		}
		wg.Wait()
		require.Equal(t, map[string]int{"stat": 1}, b.taken(), "unchanged")

		addBlock(t, b, 2)
		b.taken()
		time.Sleep(31 * time.Second)
		require.Equal(t, 2, count(t, c))
		require.Equal(t, map[string]int{"stat": 1, "get": 1}, b.taken(), "changed")
	})
}

func TestEmptyHomeIsNotListedAgainAndAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *Catalogue, b *spy) {
		ask := func() int {
			x, err := c.index(context.Background(), "nobody", time.Time{})
			require.NoError(t, err)
			return len(x.Blocks)
		}
		require.Zero(t, ask())
		require.Equal(t, 1, b.taken()["list"])
		for range 9 {
			time.Sleep(31 * time.Second)
			require.Zero(t, ask())
		}
		require.Equal(t, map[string]int{"stat": 9}, b.taken())
		time.Sleep(31 * time.Second)
		require.Zero(t, ask())
		require.Equal(t, 1, b.taken()["list"], "after some minutes")
	})
}

func TestStaleListServesForAWhile(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *Catalogue, b *spy) {
		require.Equal(t, 1, count(t, c))
		addBlock(t, b, 2)
		b.setHook(func(string, bucket.Key) error { return errors.New("away") })
		for range 7 {
			time.Sleep(time.Minute)
			require.Equal(t, 1, count(t, c))
		}
		time.Sleep(2 * time.Minute)
		_, err := c.index(context.Background(), "me", time.Time{})
		requireUnavailable(t, err, "err-store-index")

		b.setHook(nil)
		time.Sleep(2 * refreshPause)
		require.Equal(t, 2, count(t, c))
	})
}

func TestFirstReadThatFails(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *Catalogue, b *spy) {
		b.setHook(func(string, bucket.Key) error { return errors.New("away") })
		for range 100 {
			_, err := c.index(context.Background(), "me", time.Time{})
			requireUnavailable(t, err, "err-store-index")
		}
		require.Equal(t, map[string]int{"get": 1}, b.taken(), "failures are not repeated at once")
		b.setHook(nil)
		time.Sleep(2 * refreshPause)
		require.Equal(t, 1, count(t, c))
	})
}

func TestBucketThatHangsHoldsUpForAMomentOnly(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *Catalogue, b *spy) {
		require.Equal(t, 1, count(t, c))
		release := make(chan struct{})
		b.setHook(func(string, bucket.Key) error { <-release; return nil })
		time.Sleep(time.Minute)
		before := time.Now()
		require.Equal(t, 1, count(t, c))
		require.Equal(t, refreshPatience, time.Since(before))
		before = time.Now()
		require.Equal(t, 1, count(t, c))
		require.Zero(t, time.Since(before), "the second one need not wait again")

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := c.index(ctx, "me", time.Now())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		close(release)
		synctest.Wait()
	})
}

func TestNewerListOnDemand(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *Catalogue, b *spy) {
		require.Equal(t, 1, count(t, c))
		addBlock(t, b, 2)
		require.Equal(t, 1, count(t, c))
		time.Sleep(time.Second)
		x, err := c.index(context.Background(), "me", time.Now().Add(-time.Millisecond))
		require.NoError(t, err)
		require.Len(t, x.Blocks, 2)
	})
}

func TestIdleHomesAreForgotten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *Catalogue, _ *spy) {
		count(t, c)
		time.Sleep(homeIdle + 2*forgetInterval)
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		require.Empty(t, c.homes)
	})
}

// Ten thousand tenants with a thousand blocks each are no work until one of
// them asks, and then as much as the list of that one.
func TestOnlyListsThatAreAskedForAreRead(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	err := bucket.UpdateIndex(t.Context(), b, "large", func(x *bucket.Index) error {
		for i := range uint64(10_000) {
			x.Blocks = append(x.Blocks, bucket.IndexBlock{ID: ulid.MustNew(i+1, nil), MinTime: int64(i) * hour, MaxTime: int64(i+1) * hour})
		}
		return nil
	})
	require.NoError(t, err)
	b.taken()
	c := newCatalogue(b)
	run(t, c)
	require.Empty(t, b.taken())
	n, err := c.blocks(t.Context(), "large", 500*hour, 510*hour-1, []ulid.ULID{ulid.MustNew(505, nil)}, time.Time{})
	require.NoError(t, err)
	require.Len(t, n.Own, 9)
	require.Equal(t, map[string]int{"list": 1 + 1, "get": 2}, b.taken(), "the homes, the tenant's blocks, and the pool's, which has no index yet")
	for range 100 {
		_, err = c.blocks(t.Context(), "large", 0, hour, nil, time.Time{})
		require.NoError(t, err)
	}
	require.Empty(t, b.taken())
}

// Ten thousand tenants of the pool ask, each again and again: that costs as
// much as one of them.
func TestTenantsWithoutHomesCostNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *Catalogue, b *spy) {
		require.NoError(t, bucket.UpdateIndex(t.Context(), b, bucket.PoolHome, func(x *bucket.Index) error {
			x.AddBlock(bucket.IndexBlock{ID: ulid.ULID{15: 9}, MinTime: 0, MaxTime: 10})
			return nil
		}))
		b.taken()
		askAll := func() {
			for i := range 10_000 {
				n, err := c.blocks(context.Background(), tenant.ID(fmt.Sprintf("tenant-%d", i)), 0, 1, nil, time.Time{})
				require.NoError(t, err)
				require.Equal(t, 1, n.Len())
			}
		}
		askAll()
		require.Equal(t, map[string]int{"list": 1, "get": 1}, b.taken())
		time.Sleep(31 * time.Second)
		askAll()
		require.Equal(t, map[string]int{"list": 1, "stat": 1}, b.taken())

		// One gets a home: it is found with the next list.
		addBlock(t, b, 2)
		time.Sleep(31 * time.Second)
		n, err := c.blocks(context.Background(), "me", 0, 1, nil, time.Time{})
		require.NoError(t, err)
		require.Equal(t, 3, n.Len())
	})
}

// Of what is listed, a query needs what is not replaced, and of split pooled
// blocks its tenant's part.
func TestBlocksThatAQueryNeeds(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	update := func(home bucket.Key, change func(x *bucket.Index)) {
		require.NoError(t, bucket.UpdateIndex(t.Context(), b, home, func(x *bucket.Index) error { change(x); return nil }))
	}
	id := func(n uint64) ulid.ULID { return ulid.MustNew(n, nil) }
	update(bucket.TenantHome(string(alice)), func(x *bucket.Index) {
		for n := range uint64(4) {
			x.AddBlock(bucket.IndexBlock{ID: id(n + 1), MinTime: 0, MaxTime: hour, IndexSize: 100, CompactorShardID: "2_of_3"})
		}
		x.BlockDeletionMarks = append(x.BlockDeletionMarks, bucket.IndexDeletionMark{ID: id(2), DeletionTime: 1})
	})
	const parts = 4
	update(bucket.PoolHome, func(x *bucket.Index) {
		for n := range parts {
			x.AddBlock(bucket.IndexBlock{ID: id(uint64(n + 11)), MinTime: 0, MaxTime: hour, CompactorShardID: fmt.Sprintf("%d_of_%d", n+1, parts)})
		}
		for n, odd := range []string{"", "1", "0_of_4", "5_of_4", "a_of_b", "1_of_1"} {
			x.AddBlock(bucket.IndexBlock{ID: id(uint64(n + 21)), MinTime: 0, MaxTime: hour, CompactorShardID: odd})
		}
	})
	c := newCatalogue(b)
	run(t, c)
	for _, who := range []tenant.ID{alice, bob, "12345", "z"} {
		n, err := c.blocks(t.Context(), who, 0, hour, []ulid.ULID{id(3)}, time.Time{})
		require.NoError(t, err)
		var own []ulid.ULID
		if who == alice {
			own = []ulid.ULID{id(1), id(4)}
		}
		part := id(uint64(bucket.PoolShard(string(who), parts) + 11))
		require.Equal(t, own, n.Own, who)
		require.Equal(t, []ulid.ULID{part, id(21), id(22), id(23), id(24), id(25), id(26)}, n.Pooled, who)
		require.EqualValues(t, 200*len(own), n.indexBytes, "of all blocks")
	}
	n, err := c.blocks(t.Context(), alice, 2*hour, 3*hour, nil, time.Time{})
	require.NoError(t, err)
	require.Zero(t, n.Len())
}
