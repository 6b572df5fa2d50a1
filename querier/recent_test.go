package querier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/wire"
)

// samplesIn is the samples of a set by series, as text with the bits of floats.
// With seek, it jumps through them.
func samplesIn(t *testing.T, set storage.SeriesSet, seek int64) (out []string) {
	t.Helper()
	var it chunkenc.Iterator
	for set.Next() {
		if set.At() == nil { // what Prometheus makes of a series of which no chunk is left
			continue
		}
		it = set.At().Iterator(it)
		next := it.Next
		if seek > 0 {
			next = func() chunkenc.ValueType {
				if it.Next() == chunkenc.ValNone {
					return chunkenc.ValNone
				}
				return it.Seek(it.AtT() + seek)
			}
		}
		before := len(out)
		for vt := next(); vt != chunkenc.ValNone; vt = next() {
			if len(out) == before { // a chunk querier leaves out a series that has none in a range, a querier need not
				out = append(out, set.At().Labels().String())
			}
			out = append(out, sampleText(it, vt))
		}
		require.NoError(t, it.Err())
	}
	require.NoError(t, set.Err())
	return out
}

func sampleText(it chunkenc.Iterator, vt chunkenc.ValueType) string {
	switch vt {
	case chunkenc.ValHistogram:
		ts, h := it.AtHistogram(nil)
		h = h.Compact(0)
		h.CounterResetHint = histogram.UnknownCounterReset // tells where chunks begin
		return fmt.Sprintf("%d %s", ts, h)
	case chunkenc.ValFloatHistogram:
		ts, h := it.AtFloatHistogram(nil)
		h = h.Compact(0)
		h.CounterResetHint = histogram.UnknownCounterReset
		return fmt.Sprintf("%d %s", ts, h)
	default:
		ts, v := it.At()
		return fmt.Sprintf("%d %x", ts, math.Float64bits(v))
	}
}

var everything = labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// What is on any two of three replicas is found as if it were in one place:
// samples and chunks, whole and in part.
func TestReplicasHaveAllSamples(t *testing.T) {
	t.Parallel()
	rnd, v := seeded(t), newVillage(t)
	v.spread(t, rnd)
	for n := range 12 {
		mint := t0 + rnd.Int64N(hour)
		maxt := mint + rnd.Int64N(hour)
		if n < 4 {
			mint, maxt = t0-hour, t0+3*hour
		}
		// One of them fails, another each time, or none.
		for i, r := range v.all {
			r.set(func() { r.err = map[bool]error{true: errors.New("down")}[i == n%4] })
		}
		ms := []*labels.Matcher{everything}
		if n%2 == 1 {
			ms = append(ms, equal("job", "b"))
		}
		seek := int64(n%3) * rnd.Int64N(10*minute)
		hints := &storage.SelectHints{Start: mint, End: maxt}
		one, err := v.one.Querier(mint, maxt)
		require.NoError(t, err)
		want := samplesIn(t, one.Select(t.Context(), true, hints, ms...), seek)
		require.NoError(t, one.Close())
		if n < 4 {
			require.NotEmpty(t, want)
		}

		q, _, err := v.Querier(t.Context(), alice, mint, maxt)
		require.NoError(t, err)
		require.Equal(t, want, samplesIn(t, q.Select(t.Context(), true, hints, ms...), seek))
		require.NoError(t, q.Close())

		cq, _, err := v.ChunkQuerier(t.Context(), alice, mint, maxt)
		require.NoError(t, err)
		chunks := storage.NewSeriesSetFromChunkSeriesSet(cq.Select(t.Context(), true, hints, ms...))
		require.Equal(t, want, samplesIn(t, chunks, seek))
		require.NoError(t, cq.Close())
	}
}

// The API answers over replicas what it answers over one database.
func TestReplicasAnswerAsOne(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	v.spread(t, seeded(t))
	for _, r := range v.all {
		r.meta = map[string][]wire.MetricMetadata{"up": {{Type: "gauge", Help: "Whether it is up."}}}
	}
	v.single.recent.meta = map[string][]metadata.Metadata{"up": {{Type: "gauge", Help: "Whether it is up."}}}
	start, end := secs(t0+30*minute), secs(t0+2*hour)
	var requests []request
	for _, expr := range []string{
		`requests_total`, `rate(requests_total[5m])`, `sum by (job) ({__name__=~".+", __name__!~"native.*|stale"})`, `stale`,
		`histogram_quantile(0.9, rate(native[5m]))`, `histogram_count(native_float)`, `increase(native[10m]) + native`,
		`count_over_time(stale[1h])`, `up / ignoring(__name__) up offset 7m`, `{"with.dot ü"}`, `nothing`,
	} {
		requests = append(requests,
			request{path: "/query", form: params("query", expr, "time", end)},
			request{path: "/query_range", form: params("query", expr, "start", start, "end", end, "step", "60")})
	}
	for _, match := range []string{`up`, `{job="a"}`, `{job=~"a|b", __name__!="up"}`, `nothing`} {
		form := params("match[]", match, "start", start, "end", end)
		requests = append(requests, request{path: "/series", form: form}, request{path: "/labels", form: form}, request{path: "/label/job/values", form: form})
	}
	requests = append(requests,
		request{path: "/labels"}, request{path: "/label/__name__/values"}, request{path: "/metadata"},
		request{path: "/query_exemplars", form: params("query", "requests_total", "start", secs(t0), "end", end)})
	for _, r := range requests {
		want, got := v.single.do(alice, r), v.many.do(alice, r)
		require.Equal(t, 200, want.Code, "%s: %s", r, want.Body)
		require.Equal(t, want.Body.String(), got.Body.String(), "%s", r)
	}
	require.Contains(t, v.many.do(alice, requests[len(requests)-1]).Body.String(), "trace_id")
}

// The blocks that any replica has searched are not searched again. One that
// does not hold them any more is not believed.
func TestReplicasHold(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	v.spread(t, seeded(t))
	var all []ulid.ULID
	for i, r := range v.all {
		all = append(all, ulid.MustNew(uint64(i+1), nil), ulid.MustNew(9, nil))
		r.held = []string{all[2*i].String(), all[2*i+1].String()}
	}
	v.all[2].set(func() { v.all[2].err = errors.New("starting") })
	q, held, err := v.Querier(t.Context(), alice, t0, t0+hour)
	require.NoError(t, err)
	require.ElementsMatch(t, all[:4], held)
	cq, chunksHeld, err := v.ChunkQuerier(t.Context(), alice, t0, t0+hour)
	require.NoError(t, err)
	require.ElementsMatch(t, held, chunksHeld)
	require.NoError(t, cq.Close())

	series := func() error {
		set := q.Select(t.Context(), true, nil, everything)
		for set.Next() {
			continue
		}
		_, _, err := q.LabelNames(t.Context(), nil)
		require.Equal(t, set.Err() == nil, err == nil, "%v %v", set.Err(), err)
		return set.Err()
	}
	require.NoError(t, series())
	// One that was asked has shipped and deleted: another stands in for it,
	// whose own blocks are looked for in the bucket.
	v.all[0].set(func() { v.all[0].held = nil })
	require.Error(t, series(), "only one is left that knows")
	v.all[2].set(func() { v.all[2].err, v.all[2].held = nil, nil })
	require.NoError(t, series())
	v.all[1].set(func() { v.all[1].held = v.all[1].held[:1] })
	require.Error(t, series())
	require.NoError(t, q.Close())
}

func TestReplicasDoNotUnderstand(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	for _, r := range v.all {
		r.held = []string{"no ULID"}
	}
	_, _, err := v.Querier(t.Context(), alice, t0, t0+hour)
	require.Error(t, err)
}

// Too few replicas are an error, never half an answer; a tenant's own fault is
// told as it is.
func TestReplicasFail(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	v.spread(t, seeded(t))
	ask := map[string]func() error{
		"querier":   func() error { _, _, err := v.Querier(t.Context(), alice, t0, t0+hour); return err },
		"chunks":    func() error { _, _, err := v.ChunkQuerier(t.Context(), alice, t0, t0+hour); return err },
		"metadata":  func() error { _, err := v.Metadata(t.Context(), alice, "", -1, -1); return err },
		"exemplars": func() error { return exemplarsOf(t, v) },
	}
	q, _, err := v.Querier(t.Context(), alice, t0, t0+hour)
	require.NoError(t, err)
	ask["select"] = func() error { return q.Select(t.Context(), true, nil, everything).Err() }
	ask["labels"] = func() error { _, _, err := q.LabelValues(t.Context(), "job", nil); return err }
	for name, f := range ask {
		for _, down := range []int{0, 1} {
			for i, r := range v.all {
				r.set(func() { r.err = map[bool]error{true: errors.New("down")}[i < down] })
			}
			require.NoError(t, f(), name)
		}
		v.all[1].set(func() { v.all[1].err = errors.New("down") })
		var ue *wire.UserError
		require.ErrorAs(t, f(), &ue, name)
		require.Equal(t, wire.Unavailable, ue.Kind)
		require.Equal(t, "err-too-few-replicas", ue.ID)
		for _, r := range v.all {
			r.set(func() { r.err = wire.Errorf(wire.Limited, "err-x", "too much") })
		}
		require.ErrorAs(t, f(), &ue, name)
		require.Equal(t, "err-x", ue.ID)
	}
	require.NoError(t, q.Close())
}

func exemplarsOf(t *testing.T, v *village) error {
	t.Helper()
	q, err := v.ExemplarQuerier(t.Context(), alice)
	require.NoError(t, err)
	_, err = q.Select(t0, t0+hour, []*labels.Matcher{everything})
	return err
}

// One that hangs is not waited for, and is told when nobody waits.
func TestReplicasDoNotWaitForOne(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	v.spread(t, seeded(t))
	v.all[1].hangs = true
	for range 3 {
		r := v.many.do(alice, request{path: "/query", form: params("query", "requests_total", "time", secs(t0+hour))})
		require.Equal(t, 200, r.Code, r.Body)
		require.Contains(t, r.Body.String(), "requests_total")
	}
	v.many.allClosed(t)
}

// A query that is cancelled ends at once, and one that is closed leaves no
// question behind; TestMain looks for what still runs.
func TestReplicasCancel(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	v.spread(t, seeded(t))
	q, _, err := v.Querier(t.Context(), alice, t0, t0+hour)
	require.NoError(t, err)
	cq, _, err := v.ChunkQuerier(t.Context(), alice, t0, t0+hour)
	require.NoError(t, err)
	for _, r := range v.all {
		r.set(func() { r.hangs, r.calls = true, 0 })
	}
	ctx, cancel := context.WithCancel(t.Context())
	set := q.Select(ctx, true, nil, everything)
	require.Eventually(t, func() bool { return v.calls() >= 2 }, time.Minute, time.Millisecond)
	cancel()
	require.False(t, set.Next())
	require.ErrorIs(t, set.Err(), context.Canceled)

	_ = q.Select(context.Background(), true, nil, everything)
	_ = cq.Select(context.Background(), true, nil, everything)
	require.NoError(t, q.Close())
	require.NoError(t, cq.Close())
}

func (v *village) calls() (n int) {
	for _, r := range v.all {
		r.set(func() { n += r.calls })
	}
	return n
}

// What one query may fetch is bounded, over all of its selectors.
func TestReplicasChunkLimit(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	v.spread(t, seeded(t))
	v.limits.MaxChunkBytes = 6000
	q, _, err := v.Querier(t.Context(), alice, t0, t0+2*hour)
	require.NoError(t, err)
	need := func() error {
		set := q.Select(t.Context(), true, nil, equal("__name__", "up"))
		for set.Next() {
			continue
		}
		return set.Err()
	}
	require.NoError(t, need())
	for range 50 {
		if err = need(); err != nil {
			break
		}
	}
	var ue *wire.UserError
	require.ErrorAs(t, err, &ue)
	require.Equal(t, wire.Limited, ue.Kind)
	require.Equal(t, "err-max-recent-chunk-bytes", ue.ID)
	require.Contains(t, ue.Msg, "6000")
	require.NoError(t, q.Close())

	v.limits.MaxChunkBytes = 0
	q, _, err = v.Querier(t.Context(), alice, t0, t0+2*hour)
	require.NoError(t, err)
	for range 50 {
		require.NoError(t, need())
	}
	require.NoError(t, q.Close())
}

// Who asks for series alone is sent no chunks, and no more of them than wanted.
func TestReplicasSeriesAlone(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	v.spread(t, seeded(t))
	v.limits.MaxChunkBytes = 1
	q, _, err := v.Querier(t.Context(), alice, t0, t0+2*hour)
	require.NoError(t, err)
	set := q.Select(t.Context(), true, &storage.SelectHints{Start: t0, End: t0 + 2*hour, Func: "series"}, everything)
	var names []string
	for set.Next() {
		names = append(names, set.At().Labels().Get("__name__"))
		require.Equal(t, chunkenc.ValNone, set.At().Iterator(nil).Next())
	}
	require.NoError(t, set.Err())
	require.Len(t, names, 6)
	require.True(t, slices.IsSorted(names))
	set = q.Select(t.Context(), true, &storage.SelectHints{Start: t0, End: t0 + 2*hour, Func: "series", Limit: 2}, everything)
	for _, want := range names[:2] {
		require.True(t, set.Next())
		require.Equal(t, want, set.At().Labels().Get("__name__"))
	}
	require.NoError(t, q.Close())
}

// Chunks that cannot be read are an error.
func TestReplicasSendNonsense(t *testing.T) {
	t.Parallel()
	bad := []wire.SelectedSeries{{Labels: labels.FromStrings("a", "b"), Chunks: []wire.SelectedChunk{{MinT: 1, MaxT: 2, Encoding: 99, Data: []byte{1, 2, 3}}}}}
	it := samplesBetween(bad, math.MinInt64, math.MaxInt64)[0].Iterator(nil)
	require.Equal(t, chunkenc.ValNone, it.Next())
	require.Error(t, it.Err())
	it = samplesBetween(bad, math.MinInt64, math.MaxInt64)[0].Iterator(it)
	require.Equal(t, chunkenc.ValNone, it.Seek(1))
	require.Error(t, it.Err())
	chunks := chunksOf(bad)[0].Iterator(nil)
	require.False(t, chunks.Next())
	require.Error(t, chunks.Err())
}

func TestMergeExemplars(t *testing.T) {
	t.Parallel()
	a, b := labels.FromStrings("a", "1"), labels.FromStrings("b", "1")
	x := func(ts int64, v float64, id string) wire.ExemplarData {
		return wire.ExemplarData{Labels: labels.FromStrings("id", id), Bits: math.Float64bits(v), T: ts}
	}
	// Of the same time there may be several, also such that are not equal to themselves.
	list := []wire.ExemplarData{x(math.MinInt64, 1, "first"), x(5, 1, "x"), x(5, 2, "x"), x(5, 2, "y"), x(7, math.NaN(), "n"), x(math.MaxInt64, 1, "last")}
	got := mergeExemplars([]wire.SeriesExemplars{{Labels: b, Exemplars: list[:2]}, {Labels: a, Exemplars: list}, {Labels: a, Exemplars: list[1:]}, {Labels: b, Exemplars: list[1:4]}})
	require.Len(t, got, 2)
	for i, want := range [][]wire.ExemplarData{list, list[:4]} {
		require.Equal(t, []labels.Labels{a, b}[i], got[i].SeriesLabels)
		require.Len(t, got[i].Exemplars, len(want))
		for n, e := range got[i].Exemplars {
			have := wire.ExemplarData{Labels: e.Labels, Bits: math.Float64bits(e.Value), T: e.Ts}
			require.Equal(t, want[n], have)
		}
	}
	require.Nil(t, mergeExemplars(nil))
}

// What is known of a metric is what any replica knows, each once.
func TestReplicasMetadata(t *testing.T) {
	t.Parallel()
	v := newVillage(t)
	up, other := wire.MetricMetadata{Type: "gauge", Unit: "u", Help: "h"}, wire.MetricMetadata{Type: "counter"}
	v.all[0].meta = map[string][]wire.MetricMetadata{"up": {up}}
	v.all[1].meta = map[string][]wire.MetricMetadata{"up": {up, other}, "b": {other}}
	v.all[2].err = errors.New("down")
	got, err := v.Metadata(t.Context(), alice, "", -1, -1)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"up", "b"}, slices.Collect(maps.Keys(got)))
	require.ElementsMatch(t, []metadata.Metadata{{Type: "gauge", Unit: "u", Help: "h"}, {Type: "counter"}}, got["up"])
}
