package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/mux"
	dsring "github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// replica is an ingester elsewhere with a database of one tenant. What it sends
// goes through the codec.
type replica struct {
	wire.IngesterServer // nil: nothing is pushed

	db *tsdb.DB

	mu    sync.Mutex
	held  []string
	meta  map[string][]wire.MetricMetadata
	err   error
	hangs bool // until the context of a call ends
	calls int
}

var errGone = errors.New("a block is not held any more")

func (r *replica) enter(ctx context.Context, mustHold []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.hangs {
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		return ctx.Err()
	}
	for _, b := range mustHold {
		if !slices.Contains(r.held, b) {
			return errGone
		}
	}
	return r.err
}

func (r *replica) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *replica) Held(ctx context.Context, _ *wire.HeldRequest) (*wire.HeldResponse, error) {
	if err := r.enter(ctx, nil); err != nil {
		return nil, err
	}
	return &wire.HeldResponse{Blocks: slices.Clone(r.held)}, nil
}

func (r *replica) Select(ctx context.Context, req *wire.SelectRequest, send func(*wire.SeriesFrame) error) error {
	if err := r.enter(ctx, req.MustHold); err != nil {
		return err
	}
	ms, err := wire.FromMatchers(req.Matchers)
	if err != nil {
		return err
	}
	q, err := r.db.ChunkQuerier(req.MinT, req.MaxT)
	if err != nil {
		return err
	}
	defer q.Close()
	set := q.Select(ctx, true, &storage.SelectHints{Start: req.MinT, End: req.MaxT, Limit: req.Limit}, ms...)
	for set.Next() {
		s := wire.SelectedSeries{Labels: set.At().Labels()}
		var it chunks.Iterator
		for it = set.At().Iterator(nil); !req.NoChunks && it.Next(); {
			m := it.At()
			s.Chunks = append(s.Chunks, wire.SelectedChunk{MinT: m.MinTime, MaxT: m.MaxTime, Encoding: m.Chunk.Encoding(), Data: m.Chunk.Bytes()})
		}
		if err := errors.Join(it.Err(), deliver(s, send)); err != nil {
			return err
		}
	}
	return set.Err()
}

// deliver sends a frame of one series as messages are sent.
func deliver(s wire.SelectedSeries, send func(*wire.SeriesFrame) error) error {
	msg, err := wire.Codec{}.Marshal(&wire.SeriesFrame{Series: []wire.SelectedSeries{s}})
	if err != nil {
		return err
	}
	got := new(wire.SeriesFrame)
	if err := (wire.Codec{}).Unmarshal(msg, got); err != nil {
		return err
	}
	return send(got)
}

func (r *replica) Labels(ctx context.Context, req *wire.LabelsRequest) (*wire.LabelsResponse, error) {
	if err := r.enter(ctx, req.MustHold); err != nil {
		return nil, err
	}
	ms, err := wire.FromMatchers(req.Matchers)
	if err != nil {
		return nil, err
	}
	q, err := r.db.Querier(req.MinT, req.MaxT)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	res := &wire.LabelsResponse{}
	if req.Name == "" {
		res.Values, _, err = q.LabelNames(ctx, &storage.LabelHints{Limit: req.Limit}, ms...)
	} else {
		res.Values, _, err = q.LabelValues(ctx, req.Name, &storage.LabelHints{Limit: req.Limit}, ms...)
	}
	return res, err
}

func (r *replica) Exemplars(ctx context.Context, req *wire.ExemplarsRequest) (*wire.ExemplarsResponse, error) {
	if err := r.enter(ctx, nil); err != nil {
		return nil, err
	}
	q, err := r.db.ExemplarQuerier(ctx)
	if err != nil {
		return nil, err
	}
	var sets [][]*labels.Matcher
	for _, s := range req.Sets {
		ms, err := wire.FromMatchers(s)
		if err != nil {
			return nil, err
		}
		sets = append(sets, ms)
	}
	found, err := q.Select(req.MinT, req.MaxT, sets...)
	res := &wire.ExemplarsResponse{}
	for _, f := range found {
		s := wire.SeriesExemplars{Labels: f.SeriesLabels}
		for _, e := range f.Exemplars {
			s.Exemplars = append(s.Exemplars, wire.ExemplarData{Labels: e.Labels, Bits: math.Float64bits(e.Value), T: e.Ts})
		}
		res.Series = append(res.Series, s)
	}
	return res, err
}

func (r *replica) Metadata(ctx context.Context, _ *wire.MetadataRequest) (*wire.MetadataResponse, error) {
	if err := r.enter(ctx, nil); err != nil {
		return nil, err
	}
	return &wire.MetadataResponse{Metrics: r.meta}, nil
}

// village is three ingesters, what one database with all of their data has,
// and a Querier over each.
type village struct {
	*Replicas
	all    []*replica
	one    *tsdb.DB
	limits tenant.Limits
	many   *house // asks the replicas
	single *house // asks the one
}

func newVillage(t *testing.T) *village {
	t.Helper()
	outOfOrder := func(o *tsdb.Options) { o.OutOfOrderTimeWindow = hour }
	v := &village{one: teststorage.New(t, outOfOrder).DB, limits: tenant.DefaultLimits()}
	byAddr := map[string]*replica{}
	var members []ring.Member
	for i := range 3 {
		m := ring.Member{ID: fmt.Sprint("r", i), Addr: fmt.Sprint("r", i, ":1")}
		r := &replica{db: teststorage.New(t, outOfOrder).DB}
		byAddr[m.Addr], members, v.all = r, append(members, m), append(v.all, r)
	}
	limits := func(tenant.ID) *tenant.Limits { return &v.limits }
	v.Replicas = NewReplicas(newRing(t, "ingester", members), func(m ring.Member) (wire.IngesterServer, error) { return byAddr[m.Addr], nil }, limits)

	v.single = newHouse(t, map[tenant.ID]*tsdb.DB{alice: v.one}, 0, 0)
	v.many = newHouse(t, nil, 0, 0)
	var err error
	v.many.Querier, err = New(DefaultConfig(), v.Replicas, v.many.stored, limits, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	v.many.router = mux.NewRouter()
	v.many.RegisterRoutes(v.many.router)
	return v
}

// newRing is a ring of members that are there and nothing else.
func newRing(t *testing.T, role string, members []ring.Member) *ring.Ring {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m := ring.DefaultMembers()
	m.Ring.Store, m.Memberlist.BindAddress, m.Memberlist.BindPort = "memberlist", "127.0.0.1", l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	c, err := ring.New(m, t.TempDir(), "127.0.0.1:1", nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	follow := c.RingOfAny
	if role == "ingester" {
		follow = func(role string) (*ring.Ring, error) { return c.Ring(role, nil) }
	}
	r, err := follow(role)
	require.NoError(t, err)
	run(t, c)
	store, err := c.Store("test", dsring.GetCodec())
	require.NoError(t, err)
	tokens := dsring.NewRandomTokenGenerator()
	require.NoError(t, store.CAS(t.Context(), role, func(any) (any, bool, error) {
		d := dsring.NewDesc()
		for _, m := range members {
			d.AddIngester(m.ID, m.Addr, m.Zone, tokens.GenerateTokens(128, d.GetTokens()), dsring.ACTIVE, time.Now(), false, time.Time{}, nil)
		}
		return d, true, nil
	}))
	run(t, r)
	require.Eventually(t, func() bool { return r.Healthy() == len(members) }, time.Minute, time.Millisecond)
	return r
}

func run(t *testing.T, s services.Service) {
	t.Helper()
	require.NoError(t, services.StartAndAwaitRunning(context.Background(), s))
	t.Cleanup(func() { require.NoError(t, services.StopAndAwaitTerminated(context.Background(), s)) })
}

// spread writes two hours of floats, histograms and exemplars: all to the one,
// and each sample to two or three of the replicas, now and then late.
func (v *village) spread(t *testing.T, rnd *rand.Rand) {
	t.Helper()
	names := []string{"native", "native_float", "requests_total", "stale", "up", "with.dot ü"}
	for ts := t0; ts <= t0+2*hour; ts += minute / 2 {
		step := (ts - t0) / (minute / 2)
		one, apps := v.one.Appender(t.Context()), []storage.Appender{}
		for _, r := range v.all {
			apps = append(apps, r.db.Appender(t.Context()))
		}
		for i, name := range names {
			ls := labels.FromStrings("__name__", name, "job", []string{"a", "b"}[i%2])
			s := sample{ls: ls, ts: ts}
			if rnd.IntN(10) == 0 && step > 100 && name != "native" && name != "native_float" {
				s.ts -= int64(1 + rnd.IntN(int(20*minute))) // between others
			}
			s.fill(name, step)
			leftOut := rnd.IntN(4)
			s.write(t, one)
			for n := range apps {
				if n != leftOut {
					s.write(t, apps[n])
				}
			}
		}
		for _, app := range append(apps, one) {
			require.NoError(t, app.Commit())
		}
	}
}

type sample struct {
	ls labels.Labels
	ts int64
	v  float64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
	x  *exemplar.Exemplar
}

func (s *sample) fill(name string, step int64) {
	switch name {
	case "native":
		s.h = tsdbutil.GenerateTestHistogram(step % 150)
	case "native_float":
		s.fh = tsdbutil.GenerateTestFloatHistogram(step % 150)
	case "stale":
		s.v = math.Float64frombits([]uint64{value.StaleNaN, value.NormalNaN, 0}[step%3])
	default:
		s.v = float64(step % 100)
	}
	if name == "requests_total" && step%7 == 0 {
		s.x = &exemplar.Exemplar{Labels: labels.FromStrings("trace_id", fmt.Sprint(step)), Value: float64(step), Ts: t0 + step/14*minute, HasTs: true}
	}
}

func (s *sample) write(t *testing.T, app storage.Appender) {
	t.Helper()
	var err error
	if s.h != nil || s.fh != nil {
		_, err = app.AppendHistogram(0, s.ls, s.ts, s.h, s.fh)
	} else {
		_, err = app.Append(0, s.ls, s.ts, s.v)
	}
	// Late samples may meet another at the same time.
	if !errors.Is(err, storage.ErrDuplicateSampleForTimestamp) {
		require.NoError(t, err)
	}
	if s.x != nil {
		if _, err = app.AppendExemplar(0, s.ls, *s.x); !errors.Is(err, storage.ErrOutOfOrderExemplar) {
			require.NoError(t, err)
		}
	}
}
