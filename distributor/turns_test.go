package distributor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// A tenant with one request waits for nobody as long as one other sends, and else
// for those that have begun and one of each other tenant, however many those send.
func TestTenantsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
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
		}
		synctest.Wait()
		work("one")
		require.LessOrEqual(t, time.Since(began), time.Second)
		for range 100 {
			wg.Go(func() { work("more") })
		}
		synctest.Wait()
		work("one")
		require.LessOrEqual(t, time.Since(began), 4*time.Second, "what has begun, one of each other, and its own")
		wg.Wait()
		require.LessOrEqual(t, time.Since(began), 103*time.Second, "nobody is idle while one waits")
	})
}

// Whatever comes, is served or leaves, no more run than may, and none is
// forgotten.
func TestTurnsAreNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, tenants = 3, 7
		turns := newTurns(most)
		var running [tenants]atomic.Int32
		var all, served, left atomic.Int32
		var wg sync.WaitGroup
		for i := range 2000 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 1))
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(1000))*time.Millisecond)
				defer cancel()
				of := rnd.IntN(tenants)
				mine, err := turns.take(ctx, tenant.ID(fmt.Sprint(of)))
				if err != nil {
					left.Add(1)
					return
				}
				assert.LessOrEqual(t, all.Add(1), int32(2*most))
				assert.LessOrEqual(t, running[of].Add(1), int32(most))
				time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
				running[of].Add(-1)
				all.Add(-1)
				served.Add(1)
				mine.end()
			})
		}
		wg.Wait()
		require.Positive(t, served.Load())
		require.Positive(t, left.Load())
		require.Equal(t, 2*most, turns.free)
		require.Empty(t, turns.running)
		require.Empty(t, turns.waiting)
		require.Empty(t, turns.next)
	})
}

// Large requests of a tenant that wait for their turn have no memory yet for what
// they are decoded into.
func TestWaitingRequestsAreNotDecoded(t *testing.T) {
	const size, requests = maxKeptBuffer + 1<<20, 8
	d := newDoor(t)
	large, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{d.series("__name__", strings.Repeat("x", size))}}).Marshal()
	require.NoError(t, err)
	body := snappy.Encode(nil, large)
	var mine []turn
	for range d.turns.most {
		one, err := d.turns.take(t.Context(), "t")
		require.NoError(t, err)
		mine = append(mine, one)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var answers sync.WaitGroup
	for range requests {
		answers.Go(func() { assert.Equal(t, 400, d.post(body).Code, "the label is too long") })
	}
	require.Eventually(t, func() bool { return d.inflight.total() >= requests*2*size }, 10*time.Second, time.Millisecond)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(requests*size/2))
	for i := range mine {
		mine[i].end()
	}
	answers.Wait()
	require.Zero(t, d.inflight.total())
}
