package storegateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// client calls a gateway over gRPC.
func client(t *testing.T, g *Gateway) *wire.StoreClient {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}))
	wire.RegisterStore(s, g.Server())
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		s.Stop()
		require.NoError(t, <-served)
	})
	return wire.NewStoreClient(conn)
}

// received is what a gateway has sent: its series merged, and how many it sent.
func received(t *testing.T, c *wire.StoreClient, r *wire.BlocksSelect) (all []wire.SelectedSeries, err error) {
	t.Helper()
	first, searched := true, 0
	err = c.Select(context.Background(), r, func(f *wire.SeriesFrame) error {
		require.True(t, !first || len(f.Series)+len(f.Searched) == 0, "the first frame is empty")
		require.Zero(t, searched, "the blocks come last")
		first, searched = false, len(f.Searched)
		all = append(all, f.Series...)
		return nil
	})
	if err == nil {
		require.Equal(t, r.Blocks.Len(), searched)
	}
	return all, err
}

// samples is a set as one would read what was received.
func samples(t *testing.T, all []wire.SelectedSeries) []string {
	t.Helper()
	var sets []storage.SeriesSet
	for _, s := range all {
		var its []chunkenc.Iterator
		for _, c := range s.Chunks {
			chunk, err := chunkenc.FromData(c.Encoding, c.Data)
			require.NoError(t, err)
			its = append(its, chunk.Iterator(nil))
		}
		sets = append(sets, &oneSeries{Series: &storage.SeriesEntry{Lset: s.Labels, SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator {
			return storage.ChainSampleIteratorFromIterators(nil, its)
		}}})
	}
	out, err := dump(storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge), true)
	require.NoError(t, err)
	return out
}

// withoutHints takes out whether a histogram is known to be no counter reset:
// where chunks are cut is another place.
func withoutHints(lines []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = strings.Replace(line, "} 2 [", "} 0 [", 1)
	}
	return out
}

// oneSeries is a storage.SeriesSet of one series.
type oneSeries struct {
	storage.Series
	done bool
}

func (o *oneSeries) Next() bool {
	defer func() { o.done = true }()
	return !o.done
}
func (o *oneSeries) At() storage.Series              { return o.Series }
func (*oneSeries) Err() error                        { return nil }
func (*oneSeries) Warnings() annotations.Annotations { return nil }

func TestOtherMembersAreAnsweredTheSame(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	for _, o := range []blockOptions{
		{series: 250, samples: 150, segmentSize: 70 << 10}, {series: 250, samples: 150}, // replicas
		{series: 200, samples: 60, start: 160 * step},
	} {
		upload(t, b, bucket.TenantHome(string(me)), makeBlock(t, t.TempDir(), o))
	}
	tenants := []string{string(me), "other"}
	upload(t, b, bucket.PoolHome, makeBlock(t, t.TempDir(), blockOptions{series: 60, samples: 150, start: 230 * step, pool: tenants}))
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	c := client(t, g)
	rnd := rand.New(rand.NewPCG(11, 11))
	for range 30 {
		id := tenant.ID(tenants[rnd.IntN(2)])
		ms := randomMatchers(rnd)
		minT, maxT := randomRange(rnd)
		want, err := query(t, g, id, minT, maxT, ms...)
		require.NoError(t, err)
		r := &wire.BlocksSelect{Span: wire.Span{Tenant: string(id), MinT: minT, MaxT: maxT}, Blocks: blocksOf(t, g, id, minT, maxT), Matchers: wire.ToMatchers(ms)}
		all, err := received(t, c, r)
		require.NoError(t, err)
		if got := samples(t, all); !slices.Equal(withoutHints(want), withoutHints(got)) {
			t.Fatalf("%s from %d to %d: got %d lines, want %d", describe(ms), minT, maxT, len(got), len(want))
		}
		require.True(t, slices.IsSortedFunc(all, func(a, b wire.SelectedSeries) int { return labels.Compare(a.Labels, b.Labels) }))

		r.NoChunks = true
		bare, err := received(t, c, r)
		require.NoError(t, err)
		for _, s := range bare {
			require.Empty(t, s.Chunks)
		}

		q, err := openAll(t, g, id, minT, maxT)
		require.NoError(t, err)
		for _, name := range []string{"", "job", "instance"} {
			var want, got []string
			if name == "" {
				want, _, err = q.LabelNames(context.Background(), nil, ms...)
			} else {
				want, _, err = q.LabelValues(context.Background(), name, nil, ms...)
			}
			require.NoError(t, err)
			searched := 0
			err = c.Labels(context.Background(), &wire.BlocksLabels{Span: r.Span, Blocks: r.Blocks, Matchers: r.Matchers, Name: name}, func(f *wire.LabelsFrame) error {
				got, searched = append(got, f.Values...), len(f.Searched)
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, r.Blocks.Len(), searched)
			require.ElementsMatch(t, want, got)
		}
		require.NoError(t, q.Close())
	}
}

// Replicas that have written the same chunks are sent as one.
func TestEqualChunksAreSentOnce(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	for range 3 {
		upload(t, b, bucket.TenantHome(string(me)), makeBlock(t, t.TempDir(), small))
	}
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	span := wire.Span{Tenant: string(me), MaxT: 1000 * step}
	got, err := received(t, client(t, g), &wire.BlocksSelect{Span: span, Blocks: blocksOf(t, g, me, 0, 1000*step), Matchers: wire.ToMatchers([]*labels.Matcher{all()})})
	require.NoError(t, err)
	require.Len(t, got, small.series)
}

func TestWhatOtherMembersAreRefused(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	oneBlock(t, b, small)
	limits := tenant.DefaultLimits()
	limits.MaxChunkBytes = 1000
	g := started(t, smallConfig(), t.TempDir(), b, limits)
	c := client(t, g)
	ask := func(name string, ms ...wire.Matcher) error {
		_, err := received(t, c, &wire.BlocksSelect{Span: wire.Span{Tenant: name, MaxT: 1000 * step}, Blocks: blocksOf(t, g, me, 0, 1000*step), Matchers: ms})
		return err
	}
	require.Equal(t, wire.Invalid, wire.KindOf(ask("..")))
	require.Error(t, ask(string(me), wire.Matcher{Type: labels.MatchRegexp, Name: "a", Value: "("}))
	require.ErrorContains(t, ask(string(me), wire.Matcher{Type: labels.MatchRegexp, Name: "__name__", Value: ".+"}), "err-max-chunk-bytes")
	require.Equal(t, wire.NotFound, wire.KindOf(ask("other")))
	stop(t, g)
	requireUnavailable(t, ask(string(me)), "err-store-not-running")
}

// More questions than a gateway answers at once wait; more than those are sent
// away.
func TestQuestionsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	_, want := oneBlock(t, b, small)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	g.turns = make(chan struct{}, 1)
	release := make(chan struct{})
	b.setHook(func(string, bucket.Key) error { <-release; return nil })
	r := &wire.BlocksSelect{Span: wire.Span{Tenant: string(me), MaxT: 1000 * step}, Blocks: blocksOf(t, g, me, 0, 1000*step), Matchers: wire.ToMatchers([]*labels.Matcher{all()})}
	type result struct {
		series []wire.SelectedSeries
		err    error
	}
	results := make(chan result, 2*waitingPerSlot)
	for range cap(results) {
		go func() {
			var got []wire.SelectedSeries
			err := g.Server().Select(context.Background(), r, func(f *wire.SeriesFrame) error {
				got = append(got, f.Series...)
				return nil
			})
			results <- result{got, err}
		}()
	}
	// One is answered and so many wait.
	for range cap(results) - waitingPerSlot - 1 {
		requireUnavailable(t, (<-results).err, "err-store-busy")
	}
	close(release)
	for range waitingPerSlot + 1 {
		res := <-results
		require.NoError(t, res.err)
		require.Equal(t, want, samples(t, res.series))
	}
}

// A block with very many label values is answered in many frames, up to a limit.
func TestLabelsInFrames(t *testing.T) {
	t.Parallel()
	var values []string
	for i := range 3000 {
		values = append(values, fmt.Sprintf("%05d%s", i, strings.Repeat("x", 1000)))
	}
	var got []string
	frames := 0
	err := sendLabels(values, []ulid.ULID{{1}}, func(f *wire.LabelsFrame) error {
		got, frames = append(got, f.Values...), frames+1
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, values, got)
	require.Greater(t, frames, 10)
	err = sendLabels(slices.Repeat(values, 30), nil, func(*wire.LabelsFrame) error { return nil })
	require.Equal(t, wire.Limited, wire.KindOf(err))
	require.ErrorContains(t, err, "err-max-label-bytes")
}
