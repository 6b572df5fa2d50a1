package meter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// awayBucket fails while it is away.
type awayBucket struct {
	bucket.Bucket
	away atomic.Bool
	puts atomic.Int32
}

func (b *awayBucket) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, c bucket.Condition) (string, error) {
	if b.away.Load() {
		return "", errors.New("the bucket is away")
	}
	b.puts.Add(1)
	return b.Bucket.Put(ctx, key, r, size, c)
}

func newBucket(t *testing.T) *awayBucket {
	t.Helper()
	b, err := bucket.New(bucket.DefaultConfig(), t.TempDir(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	return &awayBucket{Bucket: b}
}

func newMeter(b bucket.Bucket, name string, series func(func(tenant.ID, int))) *Meter {
	return New(Options{Bucket: b, Instance: name, Replicas: 2, Series: series}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

func refuse(m *Meter, id tenant.ID, reason string, n int) {
	m.Refused(id, wire.Errorf(wire.Invalid, reason, "no"), []wire.RefusalCount{{ID: reason, Count: n}})
}

// What random load of several processes over hours sends is what all of them
// together say, to the sample: also for a process that starts again.
func TestUsageAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		rnd := rand.New(rand.NewPCG(1, 2))
		began := time.Now()
		sent := map[string]int64{}
		for p := range 4 {
			name := fmt.Sprint("p", p/2) // two lives of each
			m := newMeter(b, name, nil)
			require.NoError(t, services.StartAndAwaitRunning(context.Background(), m))
			for range 200 {
				id := tenant.ID(fmt.Sprint("t", rnd.IntN(3)))
				n := rnd.IntN(1000)
				m.Stored(id, n, 2*n)
				refuse(m, id, "err-x", n%7)
				m.Queried(id)
				m.Read(id, 3, 0)
				m.Read(id, 0, n)
				m.Answered(id, 3*n)
				m.Evaluated(id)
				m.Notified(id)
				sent[string(id)+" samples"] += int64(n)
				sent[string(id)+" bytes"] += int64(2 * n)
				sent[string(id)+" refused"] += int64(n % 7)
				sent[string(id)+" queries"]++
				sent[string(id)+" series"] += 3
				sent[string(id)+" samples read"] += int64(n)
				sent[string(id)+" bytes read"] += int64(3 * n)
				sent[string(id)+" evaluations"]++
				sent[string(id)+" notifications"]++
				time.Sleep(time.Duration(rnd.IntN(120)) * time.Second) // of the bubble
			}
			require.NoError(t, services.StopAndAwaitTerminated(context.Background(), m))
		}
		reader := newMeter(b, "reader", nil)
		hours, err := reader.Usage(t.Context(), "", began, time.Now())
		require.NoError(t, err)
		got := map[string]int64{}
		for _, h := range hours {
			got[string(h.Tenant)+" samples"] += h.SamplesStored
			got[string(h.Tenant)+" bytes"] += h.BytesReceived
			got[string(h.Tenant)+" refused"] += h.SamplesRefused["err-x"]
			got[string(h.Tenant)+" queries"] += h.Queries
			got[string(h.Tenant)+" series"] += h.SeriesRead
			got[string(h.Tenant)+" samples read"] += h.SamplesRead
			got[string(h.Tenant)+" bytes read"] += h.BytesRead
			got[string(h.Tenant)+" evaluations"] += h.RuleEvaluations
			got[string(h.Tenant)+" notifications"] += h.Notifications
		}
		require.Equal(t, sent, got)
		require.Greater(t, len(hours), 10)
		one, err := reader.Usage(t.Context(), "t1", began, time.Now())
		require.NoError(t, err)
		for _, h := range one {
			require.Equal(t, tenant.ID("t1"), h.Tenant)
		}
	})
}

// A process that is killed loses what it has counted since its last write, five
// minutes at most.
func TestAKilledProcessLosesFiveMinutesAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		began := time.Now()
		m := newMeter(b, "p", nil)
		require.NoError(t, services.StartAndAwaitRunning(context.Background(), m))
		for range 899 { // a second less than 15 minutes, one sample a second
			m.Stored("a", 1, 1)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		// It is killed: nothing more is written. What others read:
		hours, err := newMeter(b, "reader", nil).Usage(t.Context(), "a", began, time.Now())
		require.NoError(t, err)
		var kept int64
		for _, h := range hours {
			kept += h.SamplesStored
		}
		require.Greater(t, kept, int64(899-301))
		require.LessOrEqual(t, b.puts.Load(), int32(3), "a write each five minutes, however many tenants")
		require.NoError(t, services.StopAndAwaitTerminated(context.Background(), m))
	})
}

func TestNothingIsLostWhileTheBucketIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		began := time.Now()
		m := newMeter(b, "p", nil)
		require.NoError(t, services.StartAndAwaitRunning(context.Background(), m))
		b.away.Store(true)
		for range 5 {
			m.Stored("a", 1, 1)
			time.Sleep(time.Hour)
		}
		b.away.Store(false)
		require.NoError(t, services.StopAndAwaitTerminated(context.Background(), m))
		hours, err := newMeter(b, "reader", nil).Usage(t.Context(), "a", began, time.Now())
		require.NoError(t, err)
		require.Len(t, hours, 5)
	})
}

// Each series is on two ingesters here: what each of them has is half.
func TestSeriesAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		began := time.Now()
		var n atomic.Int64
		for _, name := range []string{"one", "two"} {
			n.Store(100)
			m := newMeter(b, name, func(yield func(tenant.ID, int)) { yield("a", int(n.Load())) })
			require.NoError(t, services.StartAndAwaitRunning(context.Background(), m))
			m.Stored("a", 600, 1)
			time.Sleep(time.Minute + time.Second)
			n.Store(50)
			time.Sleep(time.Minute)
			s, err := m.Stats(t.Context(), "a")
			require.NoError(t, err)
			require.Positive(t, s.ActiveSeries)
			require.NoError(t, services.StopAndAwaitTerminated(context.Background(), m))
		}
		hours, err := newMeter(b, "reader", nil).Usage(t.Context(), "a", began, time.Now())
		require.NoError(t, err)
		require.Equal(t, 100.0, hours[0].SeriesPeak)
	})
}

func TestLastRefusalsAreShownNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		began := time.Now()
		m, other := newMeter(b, "p", nil), newMeter(b, "q", nil)
		for i := range 30 {
			refuse(m, "a", fmt.Sprintf("err-%02d", i), 1)
			refuse(m, "b", "err-of-b", 1)
			time.Sleep(time.Second)
		}
		refuse(other, "a", "err-elsewhere", 1)
		require.NoError(t, other.Flush(t.Context()))
		_, last, err := m.Refusals(t.Context(), "a", began, time.Now())
		require.NoError(t, err)
		require.Len(t, last, keptRefusals+1)
		require.Equal(t, "err-elsewhere", last[0].ID)
		require.Equal(t, "err-29", last[1].ID)
	})
}

// What blocks hold is in every hour, also where nothing else happens. Two
// compactors that have looked at the same blocks do not double it; what one
// knows of the pool, and another of a tenant's own blocks, is added.
func TestStoredBytesStayFromHourToHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		began := time.Now()
		pooled := map[string]int64{"one": 0, "two": 20, "three": 20}
		var gone atomic.Bool
		var all []*Meter
		for name, bytes := range pooled {
			m := newMeter(b, name, nil)
			m.ObserveBlocks(func(yield func(tenant.ID, bucket.Key, int64)) {
				yield("a", "a", 1000)
				if bytes > 0 {
					yield("a", bucket.PoolHome, bytes)
					yield("small", bucket.PoolHome, bytes)
				}
				if !gone.Load() {
					yield("gone", "gone", 5)
				}
			})
			require.NoError(t, services.StartAndAwaitRunning(context.Background(), m))
			all = append(all, m)
		}
		time.Sleep(30 * time.Minute)
		gone.Store(true)
		time.Sleep(150*time.Minute - time.Second)
		for _, m := range all {
			require.NoError(t, services.StopAndAwaitTerminated(context.Background(), m))
		}
		hours, err := newMeter(b, "reader", nil).Usage(t.Context(), "", began, time.Now())
		require.NoError(t, err)
		var got []string
		for _, h := range hours {
			got = append(got, fmt.Sprintf("%d %s %d", h.Hour.Sub(began)/time.Hour, h.Tenant, h.BytesStored))
		}
		require.Equal(t, []string{"0 a 1020", "0 gone 5", "0 small 20", "1 a 1020", "1 small 20", "2 a 1020", "2 small 20"}, got)
		require.LessOrEqual(t, b.puts.Load(), int32(3*3), "once an hour, as nothing else happens")
	})
}

// Series of a label set with a limit are those of all ingesters together.
func TestSeriesOfLabelSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		for _, name := range []string{"one", "two"} {
			m := New(Options{Bucket: b, Instance: name, Replicas: 2, LabelSets: func(yield func(tenant.ID, string, int)) {
				yield("a", `{team="x"}`, 10)
			}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			m.observe(time.Minute)
			require.NoError(t, m.Flush(t.Context()))
		}
		s, err := newMeter(b, "reader", nil).Stats(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, map[string]float64{`{team="x"}`: 10}, s.ByLabelSet)
	})
}
