package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/gorilla/mux"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// shelf is the blocks that are in the bucket, each a database.
type shelf struct {
	mu     sync.Mutex
	blocks map[ulid.ULID]*tsdb.DB
}

// keeper is a store gateway elsewhere, that can misbehave.
type keeper struct {
	shelf *shelf

	mu      sync.Mutex
	err     error
	late    error // after the first series
	hangs   bool  // without a word, until the context of a call ends
	forgets bool  // leaves out one of its blocks, and does not say so
	asked   []ulid.ULID
}

func (k *keeper) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

// enter returns the blocks to search.
func (k *keeper) enter(ctx context.Context, b wire.Blocks, hello func() error) (dbs []*tsdb.DB, ids []ulid.ULID, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ids = slices.Concat(b.Own, b.Pooled)
	k.asked = append(k.asked, ids...)
	if k.hangs {
		k.mu.Unlock()
		<-ctx.Done()
		k.mu.Lock()
		return nil, nil, ctx.Err()
	}
	if k.err != nil {
		return nil, nil, k.err
	}
	if err := hello(); err != nil {
		return nil, nil, err
	}
	if k.forgets {
		ids = ids[1:]
	}
	k.shelf.mu.Lock()
	defer k.shelf.mu.Unlock()
	for _, id := range ids {
		db := k.shelf.blocks[id]
		if db == nil {
			return nil, nil, wire.Errorf(wire.NotFound, "err-store-block-gone", "gone")
		}
		dbs = append(dbs, db)
	}
	return dbs, ids, nil
}

func (k *keeper) Select(ctx context.Context, r *wire.BlocksSelect, send func(*wire.SeriesFrame) error) error {
	dbs, ids, err := k.enter(ctx, r.Blocks, func() error { return send(&wire.SeriesFrame{}) })
	if err != nil {
		return err
	}
	ms, err := wire.FromMatchers(r.Matchers)
	if err != nil {
		return err
	}
	var all []wire.SelectedSeries
	for _, db := range dbs {
		q, err := db.ChunkQuerier(r.MinT, r.MaxT)
		if err != nil {
			return err
		}
		set := q.Select(ctx, true, &storage.SelectHints{Start: r.MinT, End: r.MaxT, DisableTrimming: r.Whole}, ms...)
		for set.Next() {
			s := wire.SelectedSeries{Labels: set.At().Labels()}
			var it chunks.Iterator
			for it = set.At().Iterator(nil); !r.NoChunks && it.Next(); {
				m := it.At()
				s.Chunks = append(s.Chunks, wire.SelectedChunk{MinT: m.MinTime, MaxT: m.MaxTime, Encoding: m.Chunk.Encoding(), Data: slices.Clone(m.Chunk.Bytes())})
			}
			all = append(all, s)
		}
		if err := errors.Join(set.Err(), q.Close()); err != nil {
			return err
		}
	}
	slices.SortStableFunc(all, func(a, b wire.SelectedSeries) int { return labels.Compare(a.Labels, b.Labels) })
	for _, s := range all {
		if err := send(&wire.SeriesFrame{Series: []wire.SelectedSeries{s}}); err != nil {
			return err
		}
		if k.late != nil {
			return k.late
		}
	}
	return send(&wire.SeriesFrame{Searched: ids})
}

func (k *keeper) Labels(ctx context.Context, r *wire.BlocksLabels, send func(*wire.LabelsFrame) error) error {
	dbs, ids, err := k.enter(ctx, r.Blocks, func() error { return send(&wire.LabelsFrame{}) })
	if err != nil {
		return err
	}
	ms, err := wire.FromMatchers(r.Matchers)
	if err != nil {
		return err
	}
	for _, db := range dbs {
		q, err := db.Querier(r.MinT, r.MaxT)
		if err != nil {
			return err
		}
		var values []string
		if r.Name == "" {
			values, _, err = q.LabelNames(ctx, nil, ms...)
		} else {
			values, _, err = q.LabelValues(ctx, r.Name, nil, ms...)
		}
		if err := errors.Join(err, send(&wire.LabelsFrame{Values: values}), q.Close()); err != nil {
			return err
		}
	}
	return send(&wire.LabelsFrame{Searched: ids})
}

// archive is some gateways over gRPC, the blocks in the bucket, one database
// with all that is in them, and a Querier over each.
type archive struct {
	*Gateways
	bucket  *spy
	shelf   *shelf
	keepers []*keeper
	one     *tsdb.DB
	limits  tenant.Limits
	many    *house // asks the gateways
	single  *house // asks the one
}

func serve(t *testing.T, k *keeper) (addr string, c *wire.StoreClient) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}))
	wire.RegisterStore(s, k)
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		s.Stop()
		require.NoError(t, <-served)
	})
	return lis.Addr().String(), wire.NewStoreClient(conn)
}

func newArchive(t *testing.T, gateways int) *archive {
	t.Helper()
	outOfOrder := func(o *tsdb.Options) { o.OutOfOrderTimeWindow = hour }
	a := &archive{bucket: newSpy(t), shelf: &shelf{blocks: map[ulid.ULID]*tsdb.DB{}}, one: teststorage.New(t, outOfOrder).DB, limits: tenant.DefaultLimits()}
	clients := map[string]*wire.StoreClient{}
	var members []ring.Member
	for i := range gateways {
		k := &keeper{shelf: a.shelf}
		addr, c := serve(t, k)
		a.keepers, clients[addr] = append(a.keepers, k), c
		members = append(members, ring.Member{ID: fmt.Sprint("g", i), Addr: addr})
	}
	limits := func(tenant.ID) *tenant.Limits { return &a.limits }
	list := newCatalogue(a.bucket)
	run(t, list)
	a.Gateways = NewGateways(list, newRing(t, "storegateway", members), func(m ring.Member) (wire.StoreServer, error) { return clients[m.Addr], nil }, limits)

	a.single = newHouse(t, map[tenant.ID]*tsdb.DB{alice: a.one}, 0, 0)
	a.many = newHouse(t, nil, 0, 0)
	var err error
	a.many.Querier, err = New(DefaultConfig(), a.many.recent, a.Gateways, limits, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	a.many.router = mux.NewRouter()
	a.many.RegisterRoutes(a.many.router)
	return a
}

// fill writes two hours to the one, and each sample to one or two of so many
// blocks, own and pooled ones.
func (a *archive) fill(t *testing.T, rnd *rand.Rand, blocks int) {
	t.Helper()
	var apps []storage.Appender
	var own, pooled []bucket.IndexBlock
	for i := range blocks {
		db := teststorage.New(t, func(o *tsdb.Options) { o.OutOfOrderTimeWindow = hour }).DB
		b := bucket.IndexBlock{ID: ulid.MustNew(uint64(i+1), nil), MinTime: t0 - hour, MaxTime: t0 + 3*hour}
		a.shelf.blocks[b.ID] = db
		apps = append(apps, db.Appender(t.Context()))
		if i%3 == 2 {
			pooled = append(pooled, b)
		} else {
			own = append(own, b)
		}
	}
	for ts := t0; ts <= t0+2*hour; ts += minute / 2 {
		step := (ts - t0) / (minute / 2)
		one := a.one.Appender(t.Context())
		for i, name := range []string{"native", "native_float", "requests_total", "stale", "up", "with.dot ü"} {
			s := sample{ls: labels.FromStrings("__name__", name, "job", []string{"a", "b"}[i%2]), ts: ts}
			s.fill(name, step)
			s.x = nil
			s.write(t, one)
			first := int(step/30) % blocks // as blocks one after the other
			s.write(t, apps[first])
			if rnd.IntN(3) == 0 {
				s.write(t, apps[rnd.IntN(blocks)])
			}
		}
		require.NoError(t, one.Commit())
	}
	for _, app := range apps {
		require.NoError(t, app.Commit())
	}
	a.list(t, bucket.TenantHome(string(alice)), own)
	a.list(t, bucket.PoolHome, pooled)
}

func (a *archive) list(t *testing.T, home bucket.Key, blocks []bucket.IndexBlock) {
	t.Helper()
	require.NoError(t, bucket.UpdateIndex(t.Context(), a.bucket.Bucket, home, func(x *bucket.Index) error {
		x.Blocks = blocks
		return nil
	}))
}

// selected is all samples between two times.
func (a *archive) selected(t *testing.T, mint, maxt int64, ms ...*labels.Matcher) ([]string, error) {
	t.Helper()
	q, err := a.Querier(t.Context(), alice, mint, maxt, nil)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	set := q.Select(t.Context(), true, &storage.SelectHints{Start: mint, End: maxt}, ms...)
	if err := set.Err(); err != nil {
		return nil, err
	}
	return samplesIn(t, set, 0), nil
}

func (a *archive) want(t *testing.T, mint, maxt int64, ms ...*labels.Matcher) []string {
	t.Helper()
	q, err := a.one.Querier(mint, maxt)
	require.NoError(t, err)
	defer q.Close()
	return samplesIn(t, q.Select(t.Context(), true, &storage.SelectHints{Start: mint, End: maxt}, ms...), 0)
}

// Whatever one or two of the gateways do, all samples of all blocks are found.
func TestGatewaysHaveAllSamples(t *testing.T) {
	t.Parallel()
	rnd, a := seeded(t), newArchive(t, 5)
	a.fill(t, rnd, 9)
	wrong := []func(k *keeper){
		func(*keeper) {},
		func(k *keeper) { k.err = errors.New("down") },
		func(k *keeper) { k.err = wire.Errorf(wire.Unavailable, "err-store-not-running", "starting") },
		func(k *keeper) { k.late = errors.New("crashed") },
		func(k *keeper) { k.forgets = true },
		func(k *keeper) { k.hangs = true },
	}
	for n := range 24 {
		for i, k := range a.keepers {
			k.set(func() {
				k.err, k.late, k.forgets, k.hangs = nil, nil, false, false
				if i == n%5 || i == (n+2)%5 {
					wrong[(n+i)%len(wrong)](k)
				}
			})
		}
		mint := t0 + rnd.Int64N(hour)
		maxt := mint + rnd.Int64N(hour)
		if n%3 == 0 {
			mint, maxt = t0-hour, t0+3*hour
		}
		got, err := a.selected(t, mint, maxt, everything)
		require.NoError(t, err)
		want := a.want(t, mint, maxt, everything)
		require.Len(t, got, len(want))
		require.True(t, slices.Equal(want, got))

		cq, err := a.ChunkQuerier(t.Context(), alice, mint, maxt, nil)
		require.NoError(t, err)
		inChunks := samplesIn(t, storage.NewSeriesSetFromChunkSeriesSet(cq.Select(t.Context(), true, &storage.SelectHints{Start: mint, End: maxt}, everything)), 0)
		require.True(t, slices.Equal(want, inChunks))
		require.NoError(t, cq.Close())
	}
}

// The API answers over gateways what it answers over one database.
func TestGatewaysAnswerAsOne(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 3)
	a.fill(t, seeded(t), 7)
	start, end := secs(t0+30*minute), secs(t0+2*hour)
	var requests []request
	for _, expr := range []string{
		`rate(requests_total[5m])`, `sum by (job) ({__name__=~".+", __name__!~"native.*|stale"})`, `stale`,
		`histogram_quantile(0.9, rate(native[5m]))`, `histogram_count(native_float)`, `up / ignoring(__name__) up offset 7m`, `nothing`,
	} {
		requests = append(requests, request{path: "/query_range", form: params("query", expr, "start", start, "end", end, "step", "60")})
	}
	for _, match := range []string{`up`, `{job=~"a|b", __name__!="up"}`, `nothing`} {
		form := params("match[]", match, "start", start, "end", end)
		requests = append(requests, request{path: "/series", form: form}, request{path: "/labels", form: form}, request{path: "/label/job/values", form: form})
	}
	for _, r := range requests {
		want, got := a.single.do(alice, r), a.many.do(alice, r)
		require.Equal(t, 200, want.Code, "%s: %s", r, want.Body)
		require.Equal(t, want.Body.String(), got.Body.String(), "%s", r)
	}
}

// A block that nobody searches is an error, not a smaller answer.
func TestGatewaysFail(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 3)
	a.fill(t, seeded(t), 4)
	both := func() (string, error) {
		_, err := a.selected(t, t0, t0+2*hour, everything)
		q, qerr := a.Querier(t.Context(), alice, t0, t0+2*hour, nil)
		require.NoError(t, qerr)
		_, _, lerr := q.LabelValues(t.Context(), "job", nil)
		require.NoError(t, q.Close())
		var ue, le *wire.UserError
		require.ErrorAs(t, err, &ue)
		require.ErrorAs(t, lerr, &le)
		require.Equal(t, ue.ID, le.ID)
		return ue.ID, err
	}
	every := func(change func(k *keeper)) {
		for _, k := range a.keepers {
			k.set(func() { change(k) })
		}
	}
	every(func(k *keeper) { k.err = errors.New("down") })
	id, err := both()
	require.Equal(t, "err-store-block-unavailable", id)
	require.Equal(t, wire.Unavailable, wire.KindOf(err))

	every(func(k *keeper) { k.err, k.forgets = nil, true })
	id, _ = both()
	require.Equal(t, "err-store-block-unavailable", id)

	// A tenant's own fault is told as it is, and nobody else is asked.
	every(func(k *keeper) {
		k.forgets, k.asked, k.err = false, nil, wire.Errorf(wire.Limited, "err-x", "too much")
	})
	id, _ = both()
	require.Equal(t, "err-x", id)
	asked := 0
	every(func(k *keeper) { asked += len(k.asked) })
	require.Less(t, asked, 2*3*4, "all of a block's gateways, by both") // a slow one's neighbour may be
}

// A block that a compaction has replaced since the list was read is looked for
// in a newer list, once.
func TestGatewaysFindWhatReplacesABlock(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 3)
	a.fill(t, seeded(t), 4)
	want := a.want(t, t0, t0+2*hour, everything)
	got, err := a.selected(t, t0, t0+2*hour, everything)
	require.NoError(t, err)
	require.Equal(t, want, got)

	q, err := a.Querier(t.Context(), alice, t0, t0+2*hour, nil)
	require.NoError(t, err)
	a.shelf.mu.Lock()
	all := ulid.MustNew(99, nil)
	a.shelf.blocks = map[ulid.ULID]*tsdb.DB{all: a.one}
	a.shelf.mu.Unlock()
	a.list(t, bucket.PoolHome, nil)
	a.list(t, bucket.TenantHome(string(alice)), []bucket.IndexBlock{{ID: all, MinTime: t0, MaxTime: t0 + 3*hour}})
	require.Equal(t, want, samplesIn(t, q.Select(t.Context(), true, nil, everything), 0))
	require.NoError(t, q.Close())

	a.shelf.mu.Lock()
	a.shelf.blocks = nil
	a.shelf.mu.Unlock()
	_, err = a.selected(t, t0, t0+2*hour, everything)
	requireUnavailable(t, err, "err-store-block-unavailable")
}

// What one query may fetch of stored blocks is bounded.
func TestGatewaysAreHeldToLimits(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 3)
	a.fill(t, seeded(t), 4)
	a.limits.MaxChunkBytes = 1000
	_, err := a.selected(t, t0, t0+2*hour, everything)
	require.Equal(t, wire.Limited, wire.KindOf(err))
	require.ErrorContains(t, err, "err-max-chunk-bytes")
	a.limits.MaxChunkBytes, a.limits.MaxSeriesPerQuery = 0, 3
	_, err = a.selected(t, t0, t0+2*hour, everything)
	require.Equal(t, wire.Limited, wire.KindOf(err))
	require.ErrorContains(t, err, "err-max-series-per-query")
}

// A query that is cancelled or closed leaves nothing behind; TestMain looks.
func TestGatewaysCancel(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 3)
	a.fill(t, seeded(t), 4)
	for _, k := range a.keepers {
		k.set(func() { k.hangs = true })
	}
	q, err := a.Querier(t.Context(), alice, t0, t0+hour, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	set := q.Select(ctx, true, nil, everything)
	cancel()
	require.False(t, set.Next())
	require.ErrorIs(t, set.Err(), context.Canceled)
	_ = q.Select(context.Background(), true, nil, everything)
	require.NoError(t, q.Close())
}

// A query of one tenant asks the same gateway for a block each time, and pooled
// blocks are read at all of their gateways, by tenant.
func TestBlocksHaveTheirPlaces(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 6)
	n := &need{}
	for i := range 40 {
		n.Own = append(n.Own, ulid.MustNew(uint64(i+1), nil))
	}
	n.Pooled = []ulid.ULID{ulid.MustNew(1000, nil)}
	used, first := map[string]bool{}, map[string]bool{}
	for i := range 50 {
		name := fmt.Sprint("tenant-", i)
		one, err := a.place(name, n)
		require.NoError(t, err)
		again, err := a.place(name, n)
		require.NoError(t, err)
		require.Equal(t, one, again)
		own := map[string]bool{}
		for _, s := range one {
			require.Len(t, s.holders, 3)
			if s.pooled {
				first[s.holders[0].ID] = true
				continue
			}
			own[s.holders[0].ID], used[s.holders[0].ID] = true, true
		}
		require.Len(t, own, 3, "a small tenant's blocks are on so many gateways")
	}
	require.Len(t, used, 6)
	require.Len(t, first, 3)
	n.indexBytes = 10 * indexPerGateway
	large, err := a.place("large", n)
	require.NoError(t, err)
	own := map[string]bool{}
	for _, s := range large {
		own[s.holders[0].ID] = true
	}
	require.Len(t, own, 6)
}
