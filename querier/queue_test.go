package querier

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// enter starts a query that reports when it runs and ends when told.
func enter(q *queue, ctx context.Context, id tenant.ID, most int, runs chan<- string, name string) (end func(), err <-chan error) {
	errs, ended := make(chan error, 1), make(chan struct{})
	go func() {
		_, release, err := q.acquire(ctx, id, most)
		if err != nil {
			errs <- err
			return
		}
		runs <- name
		<-ended
		release()
	}()
	return func() { close(ended) }, errs
}

// One tenant with a long line, then others with a single query each: theirs
// come in turn, not after the line.
func TestTenantsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		runs := make(chan string, 100)
		ends := map[string]func(){}
		add := func(id tenant.ID, name string) {
			ends[name], _ = enter(q, t.Context(), id, 10, runs, name)
			synctest.Wait()
		}
		for i := range 6 {
			add("greedy", fmt.Sprint("g", i))
		}
		add("b", "b0")
		add("c", "c0")
		add("b", "b1")
		var order []string
		for range 9 {
			name := <-runs
			order = append(order, name)
			ends[name]()
			synctest.Wait()
		}
		require.Equal(t, []string{"g0", "b0", "c0", "g1", "b1", "g2", "g3", "g4", "g5"}, order)
		require.Empty(t, q.lines)
		require.Empty(t, q.turns)
	})
}

func TestATenantRunsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(10)
		runs := make(chan string, 100)
		var ends []func()
		for i := range 6 {
			end, _ := enter(q, t.Context(), alice, 2, runs, fmt.Sprint(i))
			ends = append(ends, end)
			synctest.Wait()
		}
		require.Len(t, runs, 2)
		_, _, err := q.acquire(t.Context(), alice, 2) // two run, four wait
		var ue *wire.UserError
		require.ErrorAs(t, err, &ue)
		require.Equal(t, "err-max-concurrent-queries", ue.ID)
		require.Equal(t, wire.Limited, ue.Kind)
		require.Equal(t, time.Second, ue.RetryAfter)

		_, release, err := q.acquire(t.Context(), bob, 2) // others do not notice
		require.NoError(t, err)
		release()
		release() // twice is once

		ends[0]()
		synctest.Wait()
		require.Len(t, runs, 3)
		time.Sleep(alone)                                   // so that nobody has to be left room for
		_, release, err = q.acquire(t.Context(), alice, 10) // the limit was raised: the line moves first
		require.NoError(t, err)
		synctest.Wait()
		require.Len(t, runs, 6)
		release()
		for _, end := range ends[1:] {
			end()
		}
		synctest.Wait()
		require.Empty(t, q.lines)
	})
}

func TestWaitIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		_, release, err := q.acquire(t.Context(), alice, 1)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, _, err = q.acquire(ctx, bob, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
		release()
		require.Empty(t, q.lines)
	})
}

func TestAllLinesTogetherAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		ctx, cancel := context.WithCancel(t.Context())
		runs := make(chan string, 1)
		end, _ := enter(q, ctx, alice, 1, runs, "first")
		<-runs
		for i := range waitingPerSlot {
			enter(q, ctx, tenant.ID(fmt.Sprint(i)), 1, runs, "")
		}
		synctest.Wait()
		_, _, err := q.acquire(ctx, bob, 1)
		require.ErrorContains(t, err, "err-query-queue-full")
		require.Equal(t, wire.Unavailable, wire.KindOf(err))
		cancel()
		synctest.Wait()
		end()
		synctest.Wait()
		require.Empty(t, q.lines)
		waiting, running := q.load()
		require.Zero(t, waiting+running)
	})
}

func TestClosingCancelsAndWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		ctx, release, err := q.acquire(t.Context(), alice, 1)
		require.NoError(t, err)
		_, waits := enter(q, t.Context(), bob, 1, make(chan string, 1), "")
		synctest.Wait()
		idle := q.close()
		require.ErrorIs(t, <-waits, errStopping)
		<-ctx.Done()
		require.ErrorIs(t, context.Cause(ctx), errStopping)
		select {
		case <-idle:
			t.Fatal("one is running still")
		default:
		}
		_, _, err = q.acquire(t.Context(), bob, 1)
		require.ErrorIs(t, err, errStopping)
		release()
		<-idle
		require.Equal(t, idle, q.close())
	})
}

// Whatever comes and goes, no more run than may, and nothing is left.
func TestQueueKeepsItsBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slots, most = 5, 2
		q := newQueue(slots)
		var (
			mu      sync.Mutex
			running = map[tenant.ID]int{}
			total   int
			ran     int
			wg      sync.WaitGroup
		)
		change := func(id tenant.ID, by int) {
			mu.Lock()
			defer mu.Unlock()
			running[id] += by
			total += by
			ran += max(by, 0)
			if total > slots || running[id] > most {
				t.Errorf("%d run, %d of %s", total, running[id], id)
			}
		}
		for i := range 400 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				g := rand.New(rand.NewPCG(uint64(i), 1))
				time.Sleep(time.Duration(g.IntN(1000)) * time.Millisecond) // fake time
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+g.IntN(300))*time.Millisecond)
				defer cancel()
				id := tenant.ID(fmt.Sprint(g.IntN(8)))
				_, release, err := q.acquire(ctx, id, most)
				if err != nil {
					return
				}
				change(id, 1)
				time.Sleep(time.Duration(g.IntN(40)) * time.Millisecond)
				change(id, -1)
				release()
			}()
		}
		wg.Wait()
		require.Greater(t, ran, 100)
		require.Empty(t, q.lines)
		waiting, left := q.load()
		require.Zero(t, waiting+left)
	})
}

// The same through the API: a tenant whose line is full gets 429, one whose
// time is over 503, another tenant its answer.
func TestQueueThroughTheAPI(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil, t0, 0, func(c *Config) { c.MaxConcurrent = 2 })
	h.limits.MaxQueries = 1
	h.recent.block = make(chan struct{})
	ask := request{path: instant, form: params("query", "up", "time", secs(t0))}

	codes := make(chan int, 3)
	for range 3 { // one runs, two wait
		go func() { codes <- h.do(alice, ask).Code }()
	}
	require.Eventually(t, func() bool { w, r := h.queue.load(); return w == 2 && r == 1 }, 10*time.Second, time.Millisecond)

	for _, row := range []struct {
		ask  request
		code int
		typ  string
	}{
		{ask, 429, "too_many_requests"},
		{request{path: "/labels"}, 429, "too_many_requests"},
		{request{path: "/series", form: params("match[]", "up")}, 429, "too_many_requests"},
		{request{path: "/query_exemplars", form: params("query", "up")}, 429, "too_many_requests"},
	} {
		w := h.do(alice, row.ask)
		e := decode(t, w)
		require.Equal(t, row.code, w.Code, "%s", w.Body)
		require.Equal(t, row.typ, e.ErrorType)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Contains(t, e.Error, "err-max-concurrent-queries")
	}
	w := h.do(alice, request{path: "/read", method: "POST"})
	require.Equal(t, 429, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Equal(t, 200, h.do(alice, request{path: "/format_query", form: params("query", "up")}).Code, "needs no turn")

	go func() { codes <- h.do(bob, ask).Code }() // fills the second slot
	require.Eventually(t, func() bool { _, r := h.queue.load(); return r == 2 }, 10*time.Second, time.Millisecond)
	late := request{path: instant, form: params("query", "up", "time", secs(t0), "timeout", "5ms")}
	w = h.do(bob, late)
	require.Equal(t, 503, w.Code)
	require.Equal(t, "timeout", decode(t, w).ErrorType)
	require.Contains(t, w.Body.String(), "query timed out in query queue")

	close(h.recent.block)
	for range 4 {
		require.Equal(t, 200, <-codes)
	}
	h.allClosed(t)
	require.EqualValues(t, 4, testutil.ToFloat64(h.Querier.metrics.queries.WithLabelValues("query", outcomeSuccess)))
	require.EqualValues(t, 1, testutil.ToFloat64(h.Querier.metrics.queries.WithLabelValues("query", outcomeQueued)))
	require.EqualValues(t, 1, testutil.ToFloat64(h.Querier.metrics.queries.WithLabelValues("query", outcomeFailed)))
}

// Queries of a tenant that asks too much pause for those of others, not for its
// own.
func TestPausesThroughTheAPI(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	fill(t, db, "a")
	for _, others := range []bool{false, true} {
		h := newHouse(t, map[tenant.ID]*tsdb.DB{alice: db, bob: db}, t0, 0, func(c *Config) { c.MaxConcurrent = 4 })
		h.limits.MaxQueries = 1
		h.recent.block = make(chan struct{})
		ask := request{path: instant, form: params("query", `{__name__=~".+"}`, "time", secs(t0))}
		codes := make(chan int, 1+waitingPerRunning)
		for range cap(codes) {
			go func() { codes <- h.do(alice, ask).Code }()
		}
		require.Eventually(t, func() bool { w, _ := h.queue.load(); return w == waitingPerRunning }, 10*time.Second, time.Millisecond)
		require.Equal(t, 429, h.do(alice, ask).Code)
		if others {
			require.Equal(t, 200, h.do(bob, request{path: instant, form: params("query", "1")}).Code)
		}
		time.Sleep(pauseAfter)
		close(h.recent.block)
		for range cap(codes) {
			require.Equal(t, 200, <-codes)
		}
		require.Equal(t, others, h.queue.paused.Load() > 0)
		h.allClosed(t)
	}
}

// A client that goes away ends its query, waiting or running.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil, t0, 0, func(c *Config) { c.MaxConcurrent = 1 })
	h.recent.block = make(chan struct{})
	ctx, cancel := context.WithCancel(tenant.WithID(t.Context(), alice))
	codes := make(chan int, 2)
	for range 2 {
		go func() {
			w := httptest.NewRecorder()
			h.router.ServeHTTP(w, httptest.NewRequest("GET", "/prometheus/api/v1/query?query=up", nil).WithContext(ctx))
			codes <- w.Code
		}()
	}
	require.Eventually(t, func() bool { w, r := h.queue.load(); return w == 1 && r == 1 }, 10*time.Second, time.Millisecond)
	cancel()
	require.Equal(t, statusClientClosed, <-codes)
	require.Equal(t, statusClientClosed, <-codes)
	h.allClosed(t)
}

// Stopping answers those who wait and those who run with 503, and leaves
// nothing running.
func TestStop(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil, t0, 0, func(c *Config) { c.MaxConcurrent = 1 })
	require.NoError(t, services.StartAndAwaitRunning(t.Context(), h.Querier))
	h.recent.block = make(chan struct{})
	ask := request{path: instant, form: params("query", "up", "time", secs(t0))}
	answers := make(chan *httptest.ResponseRecorder, 2)
	for range 2 {
		go func() { answers <- h.do(alice, ask) }()
	}
	require.Eventually(t, func() bool { w, r := h.queue.load(); return w == 1 && r == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, services.StopAndAwaitTerminated(t.Context(), h.Querier))
	for range 2 {
		w := <-answers
		require.Equal(t, http.StatusServiceUnavailable, w.Code, "%s", w.Body)
		require.Contains(t, w.Body.String(), "err-querier-stopping")
		require.True(t, json.Valid(w.Body.Bytes()))
	}
	require.Equal(t, http.StatusServiceUnavailable, h.do(alice, ask).Code)
	h.allClosed(t)
}
