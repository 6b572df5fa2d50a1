package bucket

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func acceptIfAbsent(t *testing.T, b Bucket) {
	first, err := putIf(b, "a/k", "first", Condition{IfAbsent: true})
	require.NoError(t, err)
	_, err = putIf(b, "a/k", "second", Condition{IfAbsent: true})
	require.ErrorIs(t, err, ErrPrecondition)
	require.Equal(t, "first", get(t, b, "a/k"))
	obj, err := b.Stat(t.Context(), "a/k")
	require.NoError(t, err)
	require.Equal(t, first, obj.ETag)
	require.NoError(t, b.Delete(t.Context(), "a/k"))
	_, err = putIf(b, "a/k", "third", Condition{IfAbsent: true})
	require.NoError(t, err)
	require.Equal(t, "third", get(t, b, "a/k"))
}

func acceptIfMatch(t *testing.T, b Bucket) {
	first := put(t, b, "k", "first")
	second, err := putIf(b, "k", "second", Condition{IfMatch: first})
	require.NoError(t, err)
	_, err = putIf(b, "k", "third", Condition{IfMatch: first})
	require.ErrorIs(t, err, ErrPrecondition)
	require.Equal(t, "second", get(t, b, "k"))
	require.NoError(t, b.Delete(t.Context(), "k"))
	_, err = putIf(b, "k", "fourth", Condition{IfMatch: second})
	require.ErrorIs(t, err, ErrPrecondition)
	require.Empty(t, list(t, b, "", true))
}

// acceptRace lets many write at once under the same condition.
func acceptRace(t *testing.T, b Bucket) {
	race := func(key Key, cond Condition, writers int) (winner string) {
		t.Helper()
		var mu sync.Mutex
		var wins []string
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range writers {
			wg.Go(func() {
				<-start
				content := fmt.Sprintf("%s by writer %d", key, i)
				_, err := putIf(b, key, content, cond)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					wins = append(wins, content)
					return
				}
				if !errors.Is(err, ErrPrecondition) {
					t.Errorf("writer %d: %v", i, err)
				}
			})
		}
		close(start)
		wg.Wait()
		require.Len(t, wins, 1, "%s %+v", key, cond)
		require.Equal(t, wins[0], get(t, b, key))
		return wins[0]
	}
	for i := range 10 {
		key := Key(fmt.Sprintf("race/%d", i))
		race(key, Condition{IfAbsent: true}, 24)
		obj, err := b.Stat(t.Context(), key)
		require.NoError(t, err)
		put(t, b, key, "again")
		again, err := b.Stat(t.Context(), key)
		require.NoError(t, err)
		require.NotEqual(t, obj.ETag, again.ETag)
		race(key, Condition{IfMatch: again.ETag}, 24)
	}
}

// increment adds one to a number in the bucket by compare and swap.
func increment(ctx context.Context, b Bucket, key Key) error {
	for {
		content, obj, err := ReadAll(ctx, b, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		n := 0
		if err == nil {
			if n, err = strconv.Atoi(string(content)); err != nil {
				return err
			}
		}
		_, err = putIf(b, key, strconv.Itoa(n+1), Condition{IfAbsent: obj.ETag == "", IfMatch: obj.ETag})
		if !errors.Is(err, ErrPrecondition) {
			return err
		}
	}
}

func acceptCounter(t *testing.T, b Bucket) {
	const writers, each = 6, 20
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := increment(t.Context(), b, "n"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, strconv.Itoa(writers*each), get(t, b, "n"))
}
