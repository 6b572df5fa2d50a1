package distributor

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/wire"
)

const second = time.Second

// pairOf is two replicas that scrape every interval, the second somewhat later.
func pairOf(interval, offset time.Duration) (a, b sender) {
	return sender{replica: "a", interval: interval}, sender{replica: "b", interval: interval, offset: offset}
}

// Of a pair whose replicas live, one is stored, however often they send and
// through however many distributors.
func TestHAOneReplicaIsStored(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{1, 3} {
		for _, offset := range []time.Duration{0, 100 * time.Millisecond, 2 * second, 9 * second} {
			for _, interval := range []time.Duration{second, 5 * second, 10 * second, 15 * second} {
				t.Run(fmt.Sprintf("%d nodes, every %s, %s apart", nodes, interval, offset), func(t *testing.T) {
					t.Parallel()
					inWorld(t, nodes, func(w *world) {
						a, b := pairOf(interval, offset)
						w.run(5*time.Minute, a, b)
						require.Zero(t, w.count(failovers))
						if offset == 0 { // the first ones may meet different distributors
							require.LessOrEqual(t, w.stored("b"), 1)
						} else {
							require.Zero(t, w.stored("b"))
						}
						require.Equal(t, int(5*time.Minute/interval), w.stored("a"))
						require.Equal(t, repeat("a", nodes), w.elected())
					})
				})
			}
		}
	}
}

// A pair that sends as seldom as every timeout, or less often, may be taken for
// dead a few times, and then teaches its timeout.
func TestHATimeoutFollowsSlowPairs(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{1, 3} {
		for _, c := range []struct{ interval, offset time.Duration }{
			{30 * second, 100 * time.Millisecond}, {30 * second, 29 * second}, {60 * second, 40 * second}, {60 * second, 20 * second}, {90 * second, 45 * second}, {120 * second, 50 * second},
		} {
			inWorld(t, nodes, func(w *world) {
				a, b := pairOf(c.interval, c.offset)
				w.run(6*time.Minute, a, b)
				before, stored := w.count(failovers), w.stored("a")+w.stored("b")
				require.LessOrEqual(t, before, 6.)
				w.run(18*time.Minute, a, b)
				require.Equal(t, before, w.count(failovers), "%d nodes, every %s, %s apart", nodes, c.interval, c.offset)
				require.Equal(t, int(18*time.Minute/c.interval), w.stored("a")+w.stored("b")-stored)
				require.LessOrEqual(t, w.gap(`t up{cluster="c"}`), c.interval)
			})
		}
	}
}

// When the elected replica dies, the other one takes over, and what is stored
// has no hole longer than the scrape interval.
func TestHAFailoverWithoutHole(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{1, 2, 5} {
		for _, interval := range []time.Duration{second, 5 * second, 15 * second, 30 * second} {
			for _, offset := range []time.Duration{100 * time.Millisecond, interval / 2, interval - 100*time.Millisecond} {
				t.Run(fmt.Sprintf("%d nodes, every %s, %s apart", nodes, interval, offset), func(t *testing.T) {
					t.Parallel()
					inWorld(t, nodes, func(w *world) {
						a, b := pairOf(interval, offset)
						a.until = 2*time.Minute + second
						w.run(5*time.Minute, a, b)
						require.Equal(t, repeat("b", nodes), w.elected())
						require.LessOrEqual(t, w.gap(`t up{cluster="c"}`), interval)
						if interval < 30*second { // else it may have taken over before
							require.Less(t, w.stored("b"), int((3*time.Minute+3*interval+haSlack+haRefresh(w.cfg.HA))/interval), "no more than needed")
						}
					})
				})
			}
		}
	}
}

// A replica whose requests are late by some seconds leaves no hole either.
func TestHAFailoverFromLateReplica(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, func(w *world) {
		a, b := pairOf(15*second, 7*second)
		a.until, a.delay = 2*time.Minute+second, 4*second
		w.run(5*time.Minute, a, b)
		require.LessOrEqual(t, w.gap(`t up{cluster="c"}`), 15*second)
	})
}

// Without room to hold anything, the hole is as long as the timeout and a scrape.
func TestHAFailoverWithoutHolding(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		w.cfg.HA.MaxHeldBytes = 0
		w.restart(0)
		a, b := pairOf(15*second, 7*second)
		a.until = 2*time.Minute + second
		w.run(5*time.Minute, a, b)
		require.Greater(t, w.gap(`t up{cluster="c"}`), 30*second)
		require.LessOrEqual(t, w.gap(`t up{cluster="c"}`), 45*second)
		require.Zero(t, w.heldBytes())
	})
}

// A replica that comes back is the other one now, also with all that it has
// saved up.
func TestHAReturn(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, func(w *world) {
		a, b := pairOf(15*second, 7*second)
		a.until = second
		w.run(2*time.Minute, a, b)
		require.Equal(t, []string{"b", "b"}, w.elected())
		for range 100 {
			require.Equal(t, 202, w.send(0, "a"))
		}
		a.until, a.interval = 0, 5*second
		before := w.stored("a")
		w.run(2*time.Minute, a, b)
		require.Equal(t, before, w.stored("a"))
		require.Equal(t, []string{"b", "b"}, w.elected())
		require.Equal(t, 1., w.count(failovers))
	})
}

// Clocks that disagree by hours change nothing.
func TestHASkew(t *testing.T) {
	t.Parallel()
	inWorld(t, 3, func(w *world) {
		w.limits.Defaults.CreationGracePeriod, w.limits.Defaults.PastGracePeriod = 0, 0
		a, b := pairOf(15*second, 7*second)
		w.run(5*time.Minute, a, b)
		require.Zero(t, w.count(failovers))
		require.Zero(t, w.stored("b"))

		a.until = second
		w.run(5*time.Minute, a, b)
		require.Equal(t, []string{"b", "b", "b"}, w.elected())
		require.LessOrEqual(t, w.gap(`t up{cluster="c"}`), 15*second)

		b.until = second
		w.run(5*time.Minute, b, sender{replica: "c", interval: 15 * second, offset: 3 * second})
		require.Equal(t, []string{"c", "c", "c"}, w.elected())
		require.LessOrEqual(t, w.gap(`t up{cluster="c"}`), 15*second)
	}, -time.Hour, 0, time.Hour)
}

// An election held by a slow clock is as good as one by a fast clock, and so is
// a sign of life.
func TestHASlowClockAfterFastOne(t *testing.T) {
	t.Parallel()
	inWorld(t, 3, func(w *world) {
		w.limits.Defaults.CreationGracePeriod, w.limits.Defaults.PastGracePeriod = 0, 0
		fast, slow, third := 0, 1, 2
		require.Equal(t, 200, w.send(fast, "a"))
		time.Sleep(15 * second)
		for range 20 {
			require.Equal(t, 200, w.send(slow, "a"))
			time.Sleep(10 * second)
			require.Equal(t, 202, w.send(third, "b"))
			time.Sleep(5 * second)
		}
		time.Sleep(31 * second)
		require.Equal(t, 200, w.send(slow, "b"))
		time.Sleep(second)
		require.Equal(t, []string{"b", "b", "b"}, w.elected())
		require.Equal(t, 202, w.send(fast, "a"))
	}, time.Hour, -time.Hour)
}

// All of one replica's requests may go to one distributor, the other's to
// another: the news is enough.
func TestHANewsKeepsAReplicaAlive(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, func(w *world) {
		for range 40 {
			require.Equal(t, 200, w.send(0, "a"))
			time.Sleep(7500 * time.Millisecond)
			require.Equal(t, 202, w.send(1, "b"))
			time.Sleep(7500 * time.Millisecond)
		}
		time.Sleep(45 * second)
		require.Equal(t, 200, w.send(1, "b"))
		time.Sleep(second)
		require.Equal(t, []string{"b", "b"}, w.elected())
		require.Equal(t, 202, w.send(0, "a"))
	})
}

// A distributor that restarts goes on with what the others know, or knew.
func TestHARestart(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, func(w *world) {
		a, b := pairOf(15*second, 7*second)
		w.run(time.Minute, a, b)
		w.restart(1)
		require.Equal(t, []string{"a", "a"}, w.elected())
		require.Equal(t, 202, w.send(1, "b"))
		w.run(time.Minute, a, b)
		w.restart(0)
		w.restart(1)
		w.run(5*time.Minute, a, b)
		require.Equal(t, []string{"a", "a"}, w.elected())
		require.Zero(t, w.stored("b"))

		// The replica dies while all restart.
		w.restart(0)
		w.restart(1)
		a.until = second
		w.run(2*time.Minute, a, b)
		require.Equal(t, []string{"b", "b"}, w.elected())
		const restarts = 500 * time.Millisecond // take some time between the scrapes
		require.LessOrEqual(t, w.gap(`t up{cluster="c"}`), 15*second+restarts)
	})
}

// Two distributors elect different replicas at the same moment: within a
// second both have the same.
func TestHAConcurrentElection(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, func(w *world) {
		for i := range 20 {
			cluster := fmt.Sprint("c", i)
			require.Equal(t, 200, w.nodes[0].write(t, "t", scrape(cluster, "a")).Code)
			// The second node may have heard of the first one's choice by now.
			require.Contains(t, []int{200, 202}, w.nodes[1].write(t, "t", scrape(cluster, "b")).Code)
			time.Sleep(second)
			one, two := w.nodes[0].ha.shown(), w.nodes[1].ha.shown()
			require.Len(t, one, i+1)
			for k := range one {
				require.Equal(t, one[k].Replica, two[k].Replica)
			}
			codes := []int{w.nodes[0].write(t, "t", scrape(cluster, "a")).Code, w.nodes[1].write(t, "t", scrape(cluster, "b")).Code}
			require.ElementsMatch(t, []int{200, 202}, codes)
		}
	})
}

// While the store is out of reach, each distributor decides for itself, and
// what happened meanwhile is told afterwards.
func TestHAStoreOutOfReach(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, func(w *world) {
		store := w.store.(*memoryStore)
		store.broken.Store(true)
		w.restart(1)
		require.Equal(t, 200, w.send(0, "a"))
		time.Sleep(5 * second)
		require.Equal(t, []string{"a", ""}, w.elected())
		require.NotZero(t, w.count(func(m *haMetrics) prometheus.Counter { return m.failures }))
		store.broken.Store(false)
		time.Sleep(2 * second)
		require.Equal(t, []string{"a", "a"}, w.elected())
	})
}

// A store may lose notifications: the news is heard none the less, before a
// replica would be taken for dead.
func TestHAStoreLosesNotifications(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, func(w *world) {
		w.store.(*memoryStore).mute.Store(true)
		require.Equal(t, 200, w.send(0, "a"))
		time.Sleep(haRefresh(w.cfg.HA) + second)
		require.Equal(t, []string{"a", "a"}, w.elected())
		a, b := pairOf(5*second, 2*second)
		w.run(5*time.Minute, a, b)
		require.Zero(t, w.count(failovers))
	})
}

// A pair that has not sent for long is forgotten, everywhere and wholly; when
// it sends again, it is elected anew at once.
func TestHAForget(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, func(w *world) {
		a, b := pairOf(15*second, 7*second)
		w.run(time.Minute, a, b)
		time.Sleep(haForget + 20*second)
		require.Equal(t, []string{"", ""}, w.elected())
		require.Equal(t, 200, w.send(1, "b"))
		time.Sleep(second)
		require.Equal(t, []string{"b", "b"}, w.elected())
		require.Equal(t, 202, w.send(0, "a"))

		time.Sleep(haForget + haTombstones + time.Minute)
		for _, d := range w.nodes {
			require.Zero(t, d.ha.live())
		}
		require.Zero(t, w.heldBytes())

		// What is left of it in the store goes with the next that is written there.
		key := haKeyName(haKey{"t", "c"}.shard())
		left, err := w.store.Get(t.Context(), key)
		require.NoError(t, err)
		require.Len(t, left, 1)
		near := 0
		for (haKey{"t", fmt.Sprint(near)}).shard() != (haKey{"t", "c"}).shard() {
			near++
		}
		require.Equal(t, 200, w.nodes[0].write(t, "t", scrape(fmt.Sprint(near), "a")).Code)
		time.Sleep(second)
		left, err = w.store.Get(t.Context(), key)
		require.NoError(t, err)
		require.Len(t, left, 1)
		require.NotContains(t, left, haKey{"t", "c"})
	})
	inWorld(t, 1, func(w *world) {
		for i := range 50 {
			require.Equal(t, 200, w.nodes[0].write(t, fmt.Sprint("t", i), scrape("c", "a")).Code)
			require.Equal(t, 202, w.nodes[0].write(t, fmt.Sprint("t", i), scrape("c", "b")).Code)
		}
		time.Sleep(haForget + haTombstones + time.Minute)
		ha := w.nodes[0].ha
		ha.mu.Lock()
		defer ha.mu.Unlock()
		require.Empty(t, ha.tenants)
	})
}

// A tenant has no more pairs than it may, and those that are gone make room.
func TestHATooManyClusters(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		w.limits.Defaults.MaxHAClusters = 3
		d := w.nodes[0]
		for i := range 3 {
			require.Equal(t, 200, d.write(t, "t", scrape(fmt.Sprint("c", i), "a")).Code)
		}
		out := d.write(t, "t", append(scrape("c3", "a"), scrape("c0", "a")...))
		require.Equal(t, 400, out.Code)
		require.Contains(t, out.Body.String(), `with 3 values of the label cluster already, which is the limit (limit max_ha_clusters), and "c3" is another`)
		require.Contains(t, out.Body.String(), "(err-too-many-ha-clusters); refused: 1 err-too-many-ha-clusters; the rest of the request is stored")
		require.Len(t, w.samples[`t up{cluster="c0"}`], 2)
		require.Empty(t, w.samples[`t up{cluster="c3"}`])
		require.Equal(t, 200, d.write(t, "other", scrape("c3", "a")).Code, "of another tenant")

		time.Sleep(haForget + 20*second)
		require.Equal(t, 200, d.write(t, "t", scrape("c3", "a")).Code)
		w.limits.Defaults.MaxHAClusters = 0
		for i := range 10 {
			require.Equal(t, 200, d.write(t, "t", scrape(fmt.Sprint("c", i), "a")).Code)
		}
	})
}

// What is held has a bound, for all and for each tenant, and all of it is given
// back.
func TestHAHeldBytes(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		w.cfg.HA.MaxHeldBytes = 40_000
		w.restart(0)
		d := w.nodes[0]
		unheld := func() float64 { return w.count(func(m *haMetrics) prometheus.Counter { return m.unheld }) }
		require.Equal(t, 200, w.send(0, "a"))
		for range 100 {
			require.Equal(t, 202, w.send(0, "b"))
		}
		require.Greater(t, w.heldBytes(), 9_000)
		require.LessOrEqual(t, w.heldBytes(), 10_000, "a quarter")
		require.Greater(t, unheld(), 10.)

		before := unheld()
		require.Equal(t, 200, d.write(t, "other", scrape("c", "a")).Code)
		require.Equal(t, 202, d.write(t, "other", scrape("c", "b")).Code)
		require.Equal(t, before, unheld(), "others have room")

		time.Sleep(haSlack + second)
		require.Equal(t, 200, w.send(0, "a"))
		require.Less(t, w.heldBytes(), 1000)
		for range 10 {
			require.Equal(t, 202, w.send(0, "b"))
		}
		time.Sleep(31 * second)
		require.Equal(t, 200, w.send(0, "b"))
		require.Equal(t, 200, d.write(t, "other", scrape("c", "c")).Code)
		synctest.Wait()
		require.Zero(t, w.heldBytes())
		require.Equal(t, 11, w.stored("b"))
	})
}

// What was held is stored even if ingesters are not well just then, and dropped
// if they do not recover.
func TestHAHeldIsStoredLater(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		require.Equal(t, 200, w.send(0, "a"))
		for range 5 {
			require.Equal(t, 202, w.send(0, "b"))
		}
		time.Sleep(31 * second)
		w.fail(&wire.UserError{Kind: wire.Unavailable, ID: "err-x"})
		require.Equal(t, 503, w.send(0, "b"))
		time.Sleep(4 * second)
		w.fail(nil)
		time.Sleep(4 * second)
		require.Equal(t, 5, w.stored("b"))
		require.Equal(t, 5., w.count(func(m *haMetrics) prometheus.Counter { return m.stored }))

		require.Equal(t, 202, w.send(0, "c"))
		time.Sleep(31 * second)
		w.fail(&wire.UserError{Kind: wire.Unavailable, ID: "err-x"})
		require.Equal(t, 503, w.send(0, "c"))
		time.Sleep(20 * second)
		w.fail(nil)
		time.Sleep(20 * second)
		require.Zero(t, w.stored("c"))
		require.Zero(t, w.heldBytes())
	})
}

func TestHAConfig(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	require.NoError(t, cfg.Validate())
	cfg.HA.FailoverTimeout = model.Duration(4 * second)
	require.ErrorContains(t, cfg.Validate(), "ha.failover_timeout: must be at least 5s")
	cfg.HA = HAConfig{FailoverTimeout: model.Duration(5 * second), MaxHeldBytes: -1}
	require.ErrorContains(t, cfg.Validate(), "ha.max_held_bytes")
}
