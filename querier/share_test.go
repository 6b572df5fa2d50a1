package querier

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
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
		time.Sleep(time.Second) // they are slow
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
		// The other one is not held to that: it has asked for little.
		var releases []func()
		for range 4 {
			_, release, err := q.acquire(t.Context(), "quiet", 20)
			require.NoError(t, err)
			releases = append(releases, release)
		}
		for _, release := range releases {
			release()
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

// pauses is how long a query pauses that has computed for so long.
func pauses(of *ticket, after time.Duration) time.Duration {
	time.Sleep(after)
	before := time.Now()
	of.pause()
	return time.Since(before)
}

// askAs begins a query that may run at once, and ends it with the test.
func askAs(t *testing.T, q *queue, id tenant.ID, perTenant int) (*ticket, func()) {
	t.Helper()
	ctx, release, err := q.acquire(t.Context(), id, perTenant)
	require.NoError(t, err)
	t.Cleanup(release)
	return ticketFrom(ctx), release
}

// askUntilRefused fills a tenant's line, of which so many run at once.
func askUntilRefused(t *testing.T, q *queue, id tenant.ID, perTenant int) {
	t.Helper()
	for range waitingPerRunning * perTenant {
		enter(q, t.Context(), id, perTenant, make(chan string, 1), "")
	}
	synctest.Wait()
	_, _, err := q.acquire(t.Context(), id, perTenant)
	require.ErrorContains(t, err, "err-max-concurrent-queries")
}

// A query pauses for as long as it has computed, where its tenant was refused of
// late and others ask.
func TestWhoAsksTooMuchPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(4)
		ask := func(id tenant.ID) (*ticket, func()) { return askAs(t, q, id, 1) }
		greedy, _ := ask("greedy")
		require.Zero(t, pauses(greedy, time.Second))
		askUntilRefused(t, q, "greedy", 1)
		require.Zero(t, pauses(greedy, 5*time.Millisecond), "there are no others")

		quiet, release := ask("quiet")
		release()
		require.Equal(t, 5*time.Millisecond, pauses(greedy, 5*time.Millisecond))
		require.Zero(t, pauses(greedy, 0), "it has just paused")
		require.Zero(t, pauses(greedy, pauseAfter/2))
		require.Equal(t, pauseAfter, pauses(greedy, pauseAfter/2))
		require.Equal(t, longestPause, pauses(greedy, time.Second))
		require.Zero(t, pauses(quiet, time.Second))
		require.Equal(t, 5*time.Millisecond+pauseAfter+longestPause, time.Duration(q.paused.Load()))
		require.Zero(t, pauses(nil, time.Second), "it has not queued")
		require.Zero(t, pauses(greedy, overFor), "nothing was refused since")
	})
}

// Who asks too much has his share at once, whoever has spent more, and those of
// his queries that have begun beyond it stand still until older ones have ended.
func TestWhoAsksTooMuchHasHisShareAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(8) // of four processors
		ask := func(id tenant.ID) (*ticket, func()) { return askAs(t, q, id, 5) }
		_, release := ask("quiet")
		time.Sleep(time.Hour)
		release()
		quiet, releaseQuiet := ask("quiet")
		var greedy []*ticket
		var releases []func()
		for range 5 {
			time.Sleep(time.Millisecond)
			one, release := ask("greedy")
			greedy, releases = append(greedy, one), append(releases, release)
		}
		require.Zero(t, pauses(greedy[4], time.Millisecond))
		askUntilRefused(t, q, "greedy", 5)
		require.Equal(t, 3, q.share(greedy[0].line))
		releaseQuiet()
		for i, one := range greedy {
			one.rested = time.Now()
			want := 2 * time.Millisecond
			if i >= 3 {
				want = longestPause
			}
			require.Equal(t, want, pauses(one, 2*time.Millisecond), i)
		}
		require.Zero(t, pauses(quiet, time.Second))
		releases[1]()
		synctest.Wait()
		for i, want := range map[int]time.Duration{3: time.Millisecond, 4: longestPause} {
			greedy[i].rested = time.Now()
			require.Equal(t, want, pauses(greedy[i], time.Millisecond), i)
		}
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

// While the queries of others need all processors but one, those of who asks too
// much stand still, for half of their time at most.
func TestWhoAsksTooMuchYields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(8) // of four processors
		ask := func(id tenant.ID) (*ticket, func()) { return askAs(t, q, id, 3) }
		older, _ := ask("greedy")
		time.Sleep(time.Millisecond)
		younger, _ := ask("greedy")
		askUntilRefused(t, q, "greedy", 2)
		ms := func(one *ticket) int {
			one.rested = time.Now()
			return int(pauses(one, time.Millisecond).Milliseconds())
		}
		quiet, _ := ask("quiet")
		time.Sleep(time.Second)
		require.Equal(t, 1, ms(older))
		require.Equal(t, 1, ms(younger), "three of four processors are busy")
		_, release := ask("another")
		require.Equal(t, 1, ms(older))
		require.Equal(t, 20, ms(younger))
		_, releaseThird := ask("quiet")
		require.Equal(t, 20, ms(older))
		require.Zero(t, ms(quiet))
		stood, began := 0, time.Now()
		for time.Since(began) < 10*time.Second {
			if n := ms(older); n == 20 {
				stood += n
			}
			q.lines["greedy"].refused = time.Now()
		}
		require.InDelta(t, 5500, stood, 100, "half of all its time")
		greedy, other := q.lines["greedy"], q.lines["another"]
		time.Sleep(time.Minute)
		greedy.refused, other.refused = time.Now(), time.Now()
		require.Equal(t, 1, ms(older), "another one asks too much as well")
		other.refused = time.Time{}
		require.Equal(t, 20, ms(older))
		release()
		releaseThird()
		require.Equal(t, 1, ms(younger))
	})
}

// Who has run the most of late is found without looking at all: a plain sum of
// weighted times says the same.
func TestSpentOfLate(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	type run struct {
		id tenant.ID
		d  time.Duration
		at time.Time
	}
	var (
		s   spent
		all []run
		now = time.Now()
	)
	for range 2000 {
		now = now.Add(time.Duration(rnd.IntN(10_000)) * time.Millisecond)
		r := run{tenant.ID(fmt.Sprint(rnd.IntN(5))), time.Duration(rnd.IntN(60_000)) * time.Millisecond, now}
		all = append(all, r)
		s.add(r.id, r.d, now)
		sums := map[tenant.ID]float64{}
		for _, r := range all[max(0, len(all)-300):] {
			sums[r.id] += r.d.Seconds() * math.Exp2(-now.Sub(r.at).Minutes())
		}
		most := s.most
		for id, sum := range sums {
			require.LessOrEqual(t, sum, sums[most]*1.0001, "%s has spent more than %s", id, most)
		}
		require.True(t, s.isMost(most, 0, now))
		require.True(t, s.isMost("new", time.Hour, now))
		require.False(t, s.isMost("new", 0, now))
	}
	var none spent
	require.True(t, none.isMost("x", time.Second, now))
	require.False(t, none.isMost("x", 0, now))
	s.add("x", time.Second, now.Add(time.Hour))
	require.Equal(t, tenant.ID("x"), s.most)
	require.Len(t, s.byTenant, 1, "the others are forgotten")
}
