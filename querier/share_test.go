package querier

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A tenant with more slow queries than there are slots leaves one slot free;
// once another tenant asks it shrinks to its share, and has all again when the
// other has been silent for long.
func TestATenantLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(8) // of four processors
		runs := make(chan string, 100)
		var ends []func()
		running := 0
		step := func() { // what has begun
			synctest.Wait()
			running += len(runs)
			for len(runs) > 0 {
				<-runs
			}
		}
		for i := range 20 {
			end, _ := enter(q, t.Context(), "greedy", 20, runs, fmt.Sprint(i))
			ends = append(ends, end)
			step()
		}
		require.Equal(t, 7, running, "all but one slot")
		endOne := func() {
			ends[0]()
			ends = ends[1:]
			running--
			step()
		}
		askAsOther := func() {
			_, release, err := q.acquire(t.Context(), "quiet", 20)
			require.NoError(t, err)
			release()
		}
		begun := time.Now()
		askAsOther()
		require.Equal(t, begun, time.Now(), "it does not wait")
		for range 6 {
			endOne()
		}
		require.Equal(t, 3, running, "of four processors one is free")
		for range 3 {
			time.Sleep(alone - time.Second)
			askAsOther()
			endOne()
			require.Equal(t, 3, running)
		}
		time.Sleep(alone)
		endOne()
		require.Equal(t, 7, running)
		for len(ends) > 0 {
			endOne()
		}
		require.Empty(t, q.lines)
		require.Empty(t, q.turns)
	})
}

// Who asks has no other if he is the only one, however often he asks.
func TestOthersAreOthers(t *testing.T) {
	var r recently
	now := time.Now()
	require.False(t, r.others("a", now))
	for range 3 {
		r.note("a", now)
	}
	require.False(t, r.others("a", now))
	require.True(t, r.others("b", now))
	r.note("b", now.Add(time.Second))
	r.note("b", now.Add(2*time.Second))
	require.True(t, r.others("a", now.Add(2*time.Second)))
	require.True(t, r.others("b", now.Add(2*time.Second)))
	require.False(t, r.others("b", now.Add(alone)))
	require.True(t, r.others("a", now.Add(alone)))
}
