package querier

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// inBubble runs f with a catalogue that refreshes every 30 s of fake time, over
// a home that has one block.
func inBubble(t *testing.T, f func(t *testing.T, c *catalogue, b *spy)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newSpy(t)
		addBlock(t, b, 1)
		ctx, cancel := context.WithCancel(context.Background())
		c := newCatalogue(ctx, b, 30*time.Second, discard, newMetrics(prometheus.NewRegistry()))
		b.taken()
		f(t, c, b)
		cancel()
		c.stop()
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

func count(t *testing.T, c *catalogue) int {
	t.Helper()
	x, err := c.index(context.Background(), "me", time.Time{})
	require.NoError(t, err)
	return len(x.Blocks)
}

func TestListIsReadOnceForManyQueries(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *catalogue, b *spy) {
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
	inBubble(t, func(t *testing.T, c *catalogue, b *spy) {
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
	inBubble(t, func(t *testing.T, c *catalogue, b *spy) {
		require.Equal(t, 1, count(t, c))
		addBlock(t, b, 2)
		b.setHook(func(string, bucket.Key) error { return errors.New("away") })
		for range 4 {
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
	inBubble(t, func(t *testing.T, c *catalogue, b *spy) {
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
	inBubble(t, func(t *testing.T, c *catalogue, b *spy) {
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
	inBubble(t, func(t *testing.T, c *catalogue, b *spy) {
		require.Equal(t, 1, count(t, c))
		addBlock(t, b, 2)
		require.Equal(t, 1, count(t, c))
		time.Sleep(time.Second)
		x, err := c.index(context.Background(), "me", time.Now().Add(-time.Millisecond))
		require.NoError(t, err)
		require.Len(t, x.Blocks, 2)
		addBlock(t, b, 3)
		c.expire("me")
		require.Equal(t, 3, count(t, c))
	})
}

func TestIdleHomesAreForgotten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *catalogue, _ *spy) {
		count(t, c)
		has := blockKey{"me", ulid.ULID{15: 1}}
		require.False(t, c.gone(has))
		require.True(t, c.gone(blockKey{"me", ulid.ULID{15: 9}}))
		require.False(t, c.gone(blockKey{"unknown", ulid.ULID{15: 9}}))
		time.Sleep(homeIdle + time.Second)
		c.forget(time.Now())
		require.Empty(t, c.homes)
	})
}
