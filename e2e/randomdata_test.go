package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
)

// track is one series of a random history, in order of time.
type track struct {
	labels labels.Labels
	points []point
	newest int64 // of those that requests has given out
}

// history makes series as real ones are at their worst: with gaps, stale
// markers, resets, special values, and histograms of all kinds whose buckets
// change.
type history struct {
	*rand.Rand
	start, end int64 // ms
	tracks     []*track
}

func newHistory(rnd *rand.Rand, start, end int64) *history {
	h := &history{Rand: rnd, start: start, end: end}
	for j := range 3 {
		for i := range 3 {
			at := []string{"job", fmt.Sprint("j", j), "instance", fmt.Sprint("i", i)}
			h.add(h.counter(), at, "requests_total")
			h.add(h.gauge(), at, "depth")
			h.add(h.exponentials(), at, "latency_seconds")
			h.add(h.classicBuckets(), append(at, "le", "0.1"), "size_bucket")
			h.add(h.classicBuckets(), append(at, "le", "1"), "size_bucket")
			h.add(h.classicBuckets(), append(at, "le", "+Inf"), "size_bucket")
			h.add(func(int) point { return point{v: 1} }, append(at, "version", fmt.Sprint("v", (i+j)%2)), "target_info")
		}
		at := []string{"job", fmt.Sprint("j", j)}
		h.add(h.customs(), at, "own_borders")
		h.add(h.widening(), at, "widening")
		h.add(h.halved(h.exponentials()), at, "float_histogram")
		h.add(h.gaugeHistograms(), at, "gauge_histogram")
		h.add(h.mixed(), at, "mixed")
		h.add(h.special(), at, "special")
		h.add(h.gauge(), append(at, "label.with.dots", "ü"), "utf8.name")
	}
	return h
}

// add makes a track of what next makes for each scrape that takes place.
func (h *history) add(next func(i int) point, pairs []string, name string) {
	tr := &track{labels: labels.FromStrings(append([]string{"__name__", name}, pairs...)...)}
	interval := int64(15_000)
	if h.IntN(4) == 0 {
		interval = 30_000
	}
	jitter := h.Int64N(interval)
	for i, at := 0, h.start+jitter; at < h.end; i, at = i+1, at+interval {
		switch h.IntN(60) {
		case 0: // the target is gone for a while, and says so
			tr.points = append(tr.points, point{t: at, v: stale})
			at += interval * h.Int64N(40)
			continue
		case 1: // or does not
			at += interval * h.Int64N(40)
			continue
		case 2: // scrapes are late
			at += h.Int64N(interval / 2)
		}
		p := next(i)
		p.t = at
		tr.points = append(tr.points, p)
	}
	h.tracks = append(h.tracks, tr)
}

func (h *history) counter() func(int) point {
	v := 0.0
	return func(int) point {
		if v += h.Float64() * 100; h.IntN(50) == 0 {
			v = 0
		}
		return point{v: v}
	}
}

func (h *history) gauge() func(int) point {
	return func(int) point { return point{v: h.NormFloat64() * 10} }
}

func (h *history) classicBuckets() func(int) point {
	n := 0
	return func(int) point {
		if n += h.IntN(10); h.IntN(80) == 0 {
			n = 0
		}
		return point{v: float64(n)}
	}
}

func (h *history) special() func(int) point {
	// Not among them: -0, which senders' protobuf writes as 0, and numbers so
	// large that a sum depends on the order.
	values := []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.SmallestNonzeroFloat64, -1, 1e9}
	return func(int) point { return point{v: values[h.IntN(len(values))]} }
}

// exponentials counts in a histogram that now and then has another resolution,
// new buckets, or starts anew.
func (h *history) exponentials() func(int) point {
	var (
		positive, negative = map[int]int64{}, map[int]int64{}
		zero               uint64
		sum                float64
		schema             = int32(h.IntN(6) - 1)
	)
	return func(int) point {
		switch h.IntN(50) {
		case 0:
			clear(positive)
			clear(negative)
			zero, sum = 0, 0
		case 1:
			schema = int32(h.IntN(6) - 1)
			clear(positive)
			clear(negative)
		}
		for range h.IntN(5) {
			positive[h.IntN(12)-3] += h.Int64N(20)
			negative[h.IntN(5)] += h.Int64N(4)
			sum += h.NormFloat64() * 10
		}
		zero += h.Uint64N(3)
		out := &histogram.Histogram{Schema: schema, ZeroThreshold: 0.001, ZeroCount: zero, Count: zero + total(positive) + total(negative), Sum: sum}
		out.PositiveSpans, out.PositiveBuckets = spansOf(positive)
		out.NegativeSpans, out.NegativeBuckets = spansOf(negative)
		return point{h: out}
	}
}

// widening has histograms whose zero bucket grows, but not over other buckets.
func (h *history) widening() func(int) point {
	next, threshold := h.exponentials(), 1e-6
	return func(i int) point {
		if h.IntN(30) == 0 {
			threshold = min(threshold*3, 0.003)
		}
		p := next(i)
		p.h.ZeroThreshold = threshold
		return p
	}
}

// customs counts in a histogram that now and then has other borders.
func (h *history) customs() func(int) point {
	borders, counts := []float64{0.1, 1, 10}, map[int]int64{}
	return func(int) point {
		if h.IntN(40) == 0 {
			borders = [][]float64{{0.1, 1, 10}, {0.1, 1, 5, 10}, {1, 10}, {2, 20}}[h.IntN(4)]
			clear(counts)
		}
		counts[h.IntN(len(borders)+1)] += h.Int64N(9)
		out := &histogram.Histogram{Schema: histogram.CustomBucketsSchema, CustomValues: borders, Count: total(counts), Sum: float64(total(counts)) * 1.5}
		out.PositiveSpans, out.PositiveBuckets = spansOf(counts)
		return point{h: out}
	}
}

func (h *history) gaugeHistograms() func(int) point {
	return func(int) point {
		counts := map[int]int64{h.IntN(4): h.Int64N(9), 4 + h.IntN(4): h.Int64N(9)}
		out := &histogram.Histogram{CounterResetHint: histogram.GaugeType, Schema: 2, Count: total(counts), Sum: h.Float64()}
		out.PositiveSpans, out.PositiveBuckets = spansOf(counts)
		return point{h: out}
	}
}

// halved has float histograms with counts that are no whole numbers.
func (h *history) halved(next func(int) point) func(int) point {
	return func(i int) point { return point{fh: next(i).h.ToFloat(nil).Mul(0.5)} }
}

// mixed changes between floats and histograms of both kinds.
func (h *history) mixed() func(int) point {
	kinds := []func(int) point{h.gauge(), h.exponentials(), h.customs()}
	kind := 0
	return func(i int) point {
		if h.IntN(10) == 0 {
			kind = h.IntN(len(kinds))
		}
		return kinds[kind](i)
	}
}

func total(counts map[int]int64) (n uint64) {
	for _, c := range counts {
		n += uint64(c)
	}
	return n
}

// spansOf writes bucket counts as native histograms do: as differences, in
// spans of neighbours.
func spansOf(counts map[int]int64) (spans []histogram.Span, deltas []int64) {
	before, end := int64(0), 0
	for _, at := range slices.Sorted(maps.Keys(counts)) {
		if len(spans) > 0 && at == end {
			spans[len(spans)-1].Length++
		} else {
			spans = append(spans, histogram.Span{Offset: int32(at - end), Length: 1})
		}
		deltas = append(deltas, counts[at]-before)
		before, end = counts[at], at+1
	}
	return spans, deltas
}

// requests are the history as senders send it between two times: some samples
// come late, some twice, and some senders disagree on a sample.
func (h *history) requests(from, to int64) (out [][]series) {
	const every = 120_000
	arrivals := make([]map[*track][]point, (to-from)/every+1)
	for i := range arrivals {
		arrivals[i] = map[*track][]point{}
	}
	for _, tr := range h.tracks {
		for _, p := range tr.points {
			if p.t < from || p.t >= to {
				continue
			}
			arrive := func(late int64) {
				i := min(int((p.t+late-from)/every), len(arrivals)-1)
				arrivals[i][tr] = append(arrivals[i][tr], p)
			}
			late := h.Int64N(900_000)
			switch h.IntN(40) {
			case 0:
				arrive(late)
			case 1:
				arrive(0)
				// A head refuses a histogram that it has written with other spans,
				// and the stale marker of one.
				if !isHistogram(p) && !value.IsStaleNaN(p.v) {
					arrive(late)
				}
			default:
				arrive(0)
			}
		}
	}
	for i, arrived := range arrivals {
		var list []series
		for _, tr := range h.tracks { // always in the same order
			points := arrived[tr]
			if len(points) == 0 {
				continue
			}
			if h.IntN(20) == 0 && !slices.ContainsFunc(points, isHistogram) {
				h.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
			}
			list = append(list, series{labels: tr.labels, points: points})
			if p, ok := tr.newestFloat(points); ok && p.t >= from+int64(i)*every && i+1 < len(arrivals) && h.IntN(20) == 0 {
				p.v++
				arrivals[i+1][tr] = append([]point{p}, arrivals[i+1][tr]...)
			}
		}
		if len(list) > 0 {
			out = append(out, list)
		}
	}
	return out
}

// newestFloat is the newest of some points, if it is newer than all before and
// a float. Only then, and if it is not late, is it sure that another value for
// its time is refused.
func (tr *track) newestFloat(points []point) (point, bool) {
	p := slices.MaxFunc(points, func(a, b point) int { return cmp.Compare(a.t, b.t) })
	newer := p.t > tr.newest
	tr.newest = max(tr.newest, p.t)
	return p, newer && p.h == nil && p.fh == nil
}
