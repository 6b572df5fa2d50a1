package distributor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// A tenant with one request waits for those that have begun, and for one of each
// other tenant, however many those send.
func TestTenantsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(2)
		work := func(id tenant.ID) {
			mine, err := turns.take(t.Context(), id)
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Second)
			mine.end()
			mine.end() // is no other's
		}
		var wg sync.WaitGroup
		began := time.Now()
		for range 100 {
			wg.Go(func() { work("many") })
			wg.Go(func() { work("more") })
		}
		synctest.Wait()
		work("one")
		require.LessOrEqual(t, time.Since(began), 3*time.Second)
		wg.Wait()
		require.LessOrEqual(t, time.Since(began), 101*time.Second, "nobody is idle while one waits")
	})
}

// Whatever comes, is served or leaves, no more run than may, and none is
// forgotten.
func TestTurnsAreNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 3
		turns := newTurns(slots)
		var running, served, left atomic.Int32
		var wg sync.WaitGroup
		for i := range 2000 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 1))
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(1000))*time.Millisecond)
				defer cancel()
				mine, err := turns.take(ctx, tenant.ID(fmt.Sprint(rnd.IntN(7))))
				if err != nil {
					left.Add(1)
					return
				}
				assert.LessOrEqual(t, running.Add(1), int32(slots))
				time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
				running.Add(-1)
				served.Add(1)
				mine.end()
			})
		}
		wg.Wait()
		require.Positive(t, served.Load())
		require.Positive(t, left.Load())
		require.Equal(t, slots, turns.free)
		require.Empty(t, turns.waiting)
		require.Empty(t, turns.next)
	})
}
