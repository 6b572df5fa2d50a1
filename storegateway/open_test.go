package storegateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

func TestIndexIsFetchedOnceForAll(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	_, want := oneBlock(t, b, small)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	var mu sync.Mutex
	fetched := map[string]int{}
	b.setHook(func(op string, key bucket.Key) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "get" {
			fetched[key.Base()]++
		}
		return nil
	})
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if got, err := queryAll(t, g); err != nil || !equal(want, got) {
				t.Errorf("got %d lines, want %d: %v", len(got), len(want), err)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, map[string]int{"meta.json": 1, "index": 1}, fetched)
}

func TestDownloadOutlivesTheQueryThatBeganIt(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	_, want := oneBlock(t, b, small)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	began, release := make(chan struct{}), make(chan struct{})
	b.setHook(func(op string, key bucket.Key) error {
		if op == "get" && key.Base() == "index" {
			close(began)
			<-release
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() {
		_, err := g.Querier(ctx, me, 0, 1000*step, blocksOf(t, g, me, 0, 1000*step))
		failed <- err
	}()
	<-began
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	close(release)
	got, err := queryAll(t, g)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestBlockThatCannotBeOpenedIsLeftAloneForAWhile(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	key, want := oneBlock(t, b, small)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	var asked atomic.Int64
	b.setHook(func(op string, key bucket.Key) error {
		if op == "get" && key.Base() == "index" {
			asked.Add(1)
			return errors.New("away")
		}
		return nil
	})
	for range 5 {
		_, err := queryAll(t, g)
		requireUnavailable(t, err, "err-store-block-unavailable")
		require.NotContains(t, err.Error(), key.id.String(), "the tenant sees no internals")
	}
	require.EqualValues(t, 1, asked.Load())
	b.setHook(nil)
	g.store.mu.Lock()
	g.store.refused[key] = refusal{errors.New("away"), time.Now().Add(-refusalPause)}
	g.store.mu.Unlock()
	got, err := queryAll(t, g)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestIdleIndexesAreLetGo(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	key, want := oneBlock(t, b, small)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	_, err := queryAll(t, g)
	require.NoError(t, err)
	open := func() bool {
		g.store.mu.Lock()
		defer g.store.mu.Unlock()
		blk := g.store.blocks[key]
		return blk != nil && blk.index != nil
	}

	g.store.tidy(time.Now())
	require.True(t, open())
	q, err := g.Querier(context.Background(), me, 0, 1000*step, blocksOf(t, g, me, 0, 1000*step))
	require.NoError(t, err)
	g.store.tidy(time.Now().Add(2 * blockIdleOpen))
	require.True(t, open(), "a query holds it")
	require.NoError(t, q.Close())
	g.store.tidy(time.Now().Add(2 * blockIdleOpen))
	require.False(t, open())
	require.DirExists(t, g.store.localDir(key))
	b.taken()
	got, err := queryAll(t, g)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Empty(t, b.taken())

	g.store.tidy(time.Now().Add(blockIdleDisk + time.Hour))
	require.False(t, open())
	require.NoDirExists(t, g.store.localDir(key))
}
