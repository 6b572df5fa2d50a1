package ingester

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

func ms(t int64) string { return strconv.FormatInt(t, 10) }

// Nothing that is pushed while blocks are cut is lost, and nothing is doubled.
func TestCutUnderLoad(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		const writers, rounds = 4, 300
		b := base()
		var wg sync.WaitGroup
		var done atomic.Int32
		for w := range writers {
			wg.Go(func() {
				defer done.Add(1)
				for k := range int64(rounds) {
					// Each writer goes at its own pace, so samples come in on
					// both sides of every cut's border.
					_, err := n.Push(context.Background(), "a", request(t, "a", series(fmt.Sprintf(`m{w="%d"}`, w), at(b+k*1000*int64(w+1), float64(k)))))
					if err != nil {
						t.Errorf("push: %s", err)
						return
					}
				}
			})
		}
		for done.Load() < writers {
			_, err := n.flush(context.Background(), n.heads())
			require.NoError(t, err)
		}
		wg.Wait()
		check := func() {
			got := n.read("a")
			require.Len(t, got, writers)
			for w := range writers {
				want := fmt.Sprintf(`{__name__="m", w="%d"}`, w)
				for k := range int64(rounds) {
					want += fmt.Sprintf(" %d:%d", b+k*1000*int64(w+1), k)
				}
				require.Equal(t, want, got[w])
			}
		}
		check()
		n.restart()
		check()
	})
}

// forgetful is an appender whose head forgets its series when it has said that a
// sample is out of order.
type forgetful struct {
	storage.AppenderV2
	head *tsdb.Head
}

func (f forgetful) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AOptions) (storage.SeriesRef, error) {
	ref, err := f.AppenderV2.Append(ref, ls, st, t, v, h, fh, o)
	if errors.Is(err, storage.ErrOutOfOrderSample) {
		err = errors.Join(err, f.head.Truncate(f.head.MaxTime()+1))
	}
	return ref, err
}

// A cut forgets a series at any time, also between the two tries to append a
// sample that comes out of order.
func TestLateSampleOfASeriesThatIsForgotten(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		now := base()
		n.push("t", series("late", at(now, 1)))
		a := new(appending)
		m := n.member("t")
		limits := n.Ingester.limits("t")
		a.begin(n.Ingester, m, limits, request(t, "t", series("late", at(now-1000, 2))))
		tg, err := a.target(now)
		require.NoError(t, err)
		tg.app = forgetful{tg.app, tg.head.db.Head()}
		require.ErrorIs(t, a.tryStore(), errUnnamed)
		require.NoError(t, a.store())
		require.Equal(t, 1, a.pushed.Samples)
	})
}

func TestRegularCutOnBorders(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		b := base() - 8*time.Hour.Milliseconds()
		for k := range int64(4 * 60) {
			n.push("a", series(`m`, at(b+k*60_000, float64(k))))
		}
		want := n.read("a")
		n.upkeep(context.Background(), time.Now())
		blocks := 0
		for _, h := range n.heads() {
			for _, block := range h.db.Blocks() {
				blocks++
				m := block.Meta()
				require.Zero(t, m.MinTime%7_200_000, "block begins on a border")
				require.LessOrEqual(t, m.MaxTime-m.MinTime, int64(7_200_000))
			}
		}
		require.Equal(t, 1, blocks, "only the range that is well behind is cut")
		require.Equal(t, want, n.read("a"))
	})
}

// failing is a bucket that fails while broken is set.
type failing struct {
	bucket.Bucket
	broken atomic.Bool
}

var errBroken = errors.New("the bucket is broken")

func (f *failing) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, c bucket.Condition) (string, error) {
	if f.broken.Load() {
		return "", errBroken
	}
	return f.Bucket.Put(ctx, key, r, size, c)
}

func TestBlocksArriveWhenTheBucketIsBack(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		f := &failing{Bucket: n.bucket}
		n.bucket = f
		f.broken.Store(true)
		n.start()
		b := base() - 8*time.Hour.Milliseconds()
		n.push("a", series(`m`, at(b, 1)))
		_, err := n.flush(context.Background(), n.headsOf("a"))
		require.ErrorIs(t, err, errBroken)
		n.push("a", series(`m`, at(b+1, 2)))
		want := []string{`{__name__="m"} ` + ms(b) + `:1 ` + ms(b+1) + `:2`}
		require.Equal(t, want, n.read("a"))
		n.restart()
		require.Equal(t, want, n.read("a"))
		f.broken.Store(false)
		_, err = n.flush(context.Background(), n.headsOf("a"))
		require.NoError(t, err)

		home := bucket.PoolHome
		if n.limits.Defaults.OwnHead {
			home = bucket.TenantHome("a")
		}
		index, _, err := bucket.ReadIndex(context.Background(), n.bucket, home)
		require.NoError(t, err)
		require.Len(t, index.Blocks, 2)
		if home == bucket.PoolHome {
			b := index.Blocks[0]
			tenants, err := bucket.ReadTenants(context.Background(), n.bucket, b.ID)
			require.NoError(t, err)
			require.Equal(t, map[string]int64{"a": b.IndexSize + b.SegmentSizes[0]}, tenants)
		}
		again, err := n.flush(context.Background(), n.headsOf("a"))
		require.NoError(t, err)
		require.Empty(t, again, "a shipped block is not shipped again")
		n.restart()
		again, err = n.flush(context.Background(), n.headsOf("a"))
		require.NoError(t, err)
		require.Empty(t, again)
	})
}

func TestShippedBlocksLeaveTheDisk(t *testing.T) {
	n := newNode(t)
	n.start()
	n.push("a", series(`m`, at(base(), 1)))
	_, err := n.flush(context.Background(), n.headsOf("a"))
	require.NoError(t, err)
	q, held, err := n.Querier(context.Background(), "a", 0, 1<<60)
	require.NoError(t, err)
	require.NoError(t, q.Close())
	require.Len(t, held, 1)

	h := n.poolOf("a")
	require.Len(t, h.shipped.olderThan(h.db.Blocks(), time.Now().Add(time.Second)), 1)
	require.Empty(t, h.shipped.olderThan(h.db.Blocks(), time.Now().Add(-time.Minute)))
	unshipped := &shippedBlocks{path: filepath.Join(t.TempDir(), "x"), at: nil}
	require.Empty(t, unshipped.olderThan(h.db.Blocks(), time.Now().Add(time.Hour)), "a block that the bucket lacks stays")
}

// A tenant that outgrows the pool goes on in a head of its own behind the next
// border, is read from both, and goes back when it is idle and all is shipped.
func TestMoveToOwnHeadAndBack(t *testing.T) {
	n := newNode(t)
	n.cfg.OwnHeadAbove = 3
	n.start()
	b := base()
	n.push("big", series(`m{i="1"}`, at(b, 1)), series(`m{i="2"}`, at(b, 1)), series(`m{i="3"}`, at(b, 1)))
	n.push("small", series(`m{i="1"}`, at(b, 100)))
	n.upkeep(context.Background(), time.Now())
	m := n.knownMember("big")
	require.NotNil(t, m.own.Load())
	require.Nil(t, n.knownMember("small").own.Load())
	border := m.ownFrom.Load()
	require.Zero(t, border%7_200_000)

	n.push("big", series(`m{i="1"}`, at(border-1, 2), at(border, 3), at(border+1, 4)))
	n.push("big", series(`m{i="1"}`, at(border-1, 2), at(border, 3))) // repeated
	want := []string{
		fmt.Sprintf(`{__name__="m", i="1"} %d:1 %d:2 %d:3 %d:4`, b, border-1, border, border+1),
		fmt.Sprintf(`{__name__="m", i="2"} %d:1`, b),
		fmt.Sprintf(`{__name__="m", i="3"} %d:1`, b),
	}
	require.Equal(t, want, n.read("big"))
	require.Equal(t, int64(1), int64(m.own.Load().db.Head().NumSeries()))
	n.restart()
	require.Equal(t, want, n.read("big"))
	require.Equal(t, []string{`{__name__="m", i="1"} ` + ms(b) + `:100`}, n.read("small"))
	m = n.knownMember("big")
	require.Equal(t, border, m.ownFrom.Load(), "the place survives a restart")

	// Idle: everything is cut and shipped; the head stays while its blocks do.
	_, err := n.flush(context.Background(), n.headsOf("big"))
	require.NoError(t, err)
	require.Equal(t, want, n.read("big"))
	idle := m.own.Load()
	require.NoError(t, n.unplace(m, idle))
	require.NotNil(t, m.own.Load(), "a head with blocks is not dropped")
}

// shippedAt changes when a head's blocks were shipped.
func (n *node) shippedAt(h *head, at time.Time) {
	n.t.Helper()
	for _, b := range h.db.Blocks() {
		require.NoError(n.t, h.shipped.add(b.Meta().ULID, at))
	}
}

// The log has samples of blocks that have left the disk. They are not taken in
// by a restart, to be shipped once more.
func TestRestartTakesInNothingTwice(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		ctx, b := context.Background(), base()-20*time.Hour.Milliseconds()
		the := func() *head {
			hs := n.headsOf("a")
			return hs[len(hs)-1]
		}
		const minutes = 8 * 60
		for k := range int64(minutes) {
			n.push("a", series(`m`, at(b+k*60_000, float64(k))))
			if k%30 == 29 {
				require.NoError(t, n.cut(ctx, the(), time.Time{}))
				_, err := n.shipHead(ctx, the())
				require.NoError(t, err)
				n.shippedAt(the(), time.Now().Add(-24*time.Hour))
			}
		}
		from := the().db.Head().MinTime()
		require.Greater(t, from, b)
		for range 2 { // the first one may find more on the disk
			n.restart()
			require.Equal(t, from, the().db.Head().MinTime())
		}
		_, err := n.flush(ctx, []*head{the()})
		require.NoError(t, err)

		index, _, err := bucket.ReadIndex(ctx, n.bucket, the().home)
		require.NoError(t, err)
		samples := uint64(0)
		for _, block := range index.Blocks {
			samples += block.Samples
		}
		require.Equal(t, uint64(minutes), samples, "each is shipped once")
	})
}

func TestEmptyOwnHeadIsDropped(t *testing.T) {
	n := newNode(t)
	own(&n.limits.Defaults)
	n.start()
	n.push("a", series(`m`, at(base(), 1)))
	m := n.knownMember("a")
	h := m.own.Load()
	_, err := n.flush(context.Background(), n.headsOf("a"))
	require.NoError(t, err)
	n.shippedAt(h, time.Now().Add(-24*time.Hour))
	n.upkeep(context.Background(), time.Now())
	require.NotNil(t, m.own.Load(), "somebody has just written")
	n.upkeep(context.Background(), time.Now().Add(2*time.Hour))
	require.Nil(t, m.own.Load())
	require.NoDirExists(t, h.dir)
	n.limits.Defaults.OwnHead = false
	n.push("a", series(`m`, at(base()+1, 2)))
	require.Len(t, n.read("a"), 1)
	n.restart()
	require.Len(t, n.read("a"), 1)
}

func TestManyTenantsConcurrently(t *testing.T) {
	n := newNode(t)
	n.cfg.OwnHeadAbove = 20
	n.start()
	b := base()
	var wg sync.WaitGroup
	for w := range 20 {
		id := tenant.ID(fmt.Sprintf("t%d", w%10))
		wg.Go(func() {
			for k := range int64(50) {
				ts := []prompb.TimeSeries{series(fmt.Sprintf(`same{k="%d"}`, k%25), at(b+k*1000, float64(w%10)))}
				if _, err := n.Push(context.Background(), id, request(t, id, ts...)); err != nil {
					t.Errorf("push: %s", err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			n.upkeep(context.Background(), time.Now())
		}
	})
	wg.Wait()
	for w := range 10 {
		for _, line := range n.read(tenant.ID(fmt.Sprintf("t%d", w))) {
			require.Contains(t, line, fmt.Sprintf(":%d", w))
			for other := range 10 {
				if other != w {
					require.NotContains(t, line+" ", fmt.Sprintf(":%d ", other))
				}
			}
		}
		require.Len(t, n.read(tenant.ID(fmt.Sprintf("t%d", w))), 25)
	}
}

func TestIncompleteDataFolderIsRefused(t *testing.T) {
	n := newNode(t)
	n.start()
	n.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(n.dir, "ingester", "pool-1")))
	_, err := poolsOnDisk(filepath.Join(n.dir, "ingester"))
	require.ErrorContains(t, err, "incomplete")
	require.NoError(t, os.MkdirAll(filepath.Join(n.dir, "ingester", "pool-1"), 0o777))
}

// A tenant whose window is wider than a pool's has a head of its own, or its
// window would be promised and not kept.
func TestWideWindowMeansOwnHead(t *testing.T) {
	n := newNode(t)
	n.limit("wide", func(l *tenant.Limits) { l.OutOfOrderWindow = model.Duration(48 * time.Hour) })
	n.start()
	b := base()
	require.Nil(t, n.push("wide", series(`m`, at(b, 1))).Refused.First)
	require.Nil(t, n.push("wide", series(`m`, at(b-47*time.Hour.Milliseconds(), 1))).Refused.First)
	require.NotNil(t, n.push("wide", series(`m`, at(b-49*time.Hour.Milliseconds(), 1))).Refused.First)
	require.NotNil(t, n.knownMember("wide").own.Load())
	require.Nil(t, n.push("usual", series(`m`, at(b, 1))).Refused.First)
	require.Nil(t, n.knownMember("usual").own.Load())
}
