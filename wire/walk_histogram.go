package wire

import (
	"encoding/binary"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
)

// Tags of a native histogram, the same in both versions.
const (
	histCountInt       = 1<<3 | typeVarint
	histCountFloat     = 2<<3 | typeFixed64
	histSum            = 3<<3 | typeFixed64
	histSchema         = 4<<3 | typeVarint
	histZeroThreshold  = 5<<3 | typeFixed64
	histZeroCountInt   = 6<<3 | typeVarint
	histZeroCountFloat = 7<<3 | typeFixed64
	histNegativeSpans  = 8<<3 | typeBytes
	histNegativeDeltas = 9 << 3 // varints or packed
	histNegativeCounts = 10 << 3
	histPositiveSpans  = 11<<3 | typeBytes
	histPositiveDeltas = 12 << 3
	histPositiveCounts = 13 << 3
	histResetHint      = 14<<3 | typeVarint
	histTimestamp      = 15<<3 | typeVarint
	histCustomValues   = 16 << 3

	spanOffset = 1<<3 | typeVarint
	spanLength = 2<<3 | typeVarint
)

var histogramFields = [18]field{
	1: {"count_int", asVarint}, 2: {"count_float", asDouble}, 3: {"sum", asDouble}, 4: {"schema", asVarint},
	5: {"zero_threshold", asDouble}, 6: {"zero_count_int", asVarint}, 7: {"zero_count_float", asDouble},
	8: {"negative_spans", asBytes}, 9: {"negative_deltas", asVarint | asBytes}, 10: {"negative_counts", asDouble | asBytes},
	11: {"positive_spans", asBytes}, 12: {"positive_deltas", asVarint | asBytes}, 13: {"positive_counts", asDouble | asBytes},
	14: {"reset_hint", asVarint}, 15: {"timestamp", asVarint}, 16: {"custom_values", asDouble | asBytes},
}

var (
	v1Histogram = message{"histogram", histogramFields}
	v2Histogram = message{"histogram", func() [18]field {
		f := histogramFields
		f[17] = field{"start_timestamp", asVarint}
		return f
	}()}
	bucketSpan = message{"bucket_span", [18]field{1: {"offset", asVarint}, 2: {"length", asVarint}}}
)

// histogramParts collects one histogram in memory that is used again, so that
// what the histogram keeps can be made in the right size at once.
type histogramParts struct {
	histogramNumbers
	negative, positive buckets
	custom             []float64
}

type histogramNumbers struct {
	isFloat               bool // the last count was one
	countInt, zeroInt     uint64
	countFloat, zeroFloat float64
	sum, zeroThreshold    float64
	schema                int32
	resetHint             histogram.CounterResetHint
	timestamp             int64
}

type buckets struct {
	spans  []histogram.Span
	deltas []int64
	counts []float64
}

func (p *histogramParts) reset() {
	p.histogramNumbers = histogramNumbers{}
	p.negative.reset()
	p.positive.reset()
	p.custom = p.custom[:0]
}

func (k *buckets) reset() {
	k.spans, k.deltas, k.counts = k.spans[:0], k.deltas[:0], k.counts[:0]
}

func (p *histogramParts) recycle() {
	for _, k := range []*buckets{&p.negative, &p.positive} {
		k.spans, k.deltas, k.counts = recycle(k.spans), recycle(k.deltas), recycle(k.counts)
	}
	p.custom = recycle(p.custom)
}

// read reads the histogram in b[i:]. It is one of integers or of floats as its
// count is; what it has of the other kind is dropped.
func (p *histogramParts) read(b []byte, i int, m *message) (h Histogram, err error) {
	p.reset()
	for i < len(b) {
		at := i
		tag, next := uvarint(b, at)
		if i, err = p.readField(b, at, tag, next, m); err != nil {
			return Histogram{}, err
		}
		if i < 0 {
			return Histogram{}, fault(b, at, m)
		}
	}
	if p.isFloat {
		return Histogram{T: p.timestamp, FH: p.float()}, nil
	}
	return Histogram{T: p.timestamp, H: p.integer()}, nil
}

// readField reads the field whose tag is at b[at:] and whose value is at b[i:].
func (p *histogramParts) readField(b []byte, at int, tag uint64, i int, m *message) (next int, err error) {
	var v uint64
	switch tag {
	case histCountInt:
		p.isFloat = false
		p.countInt, next = uvarint(b, i)
	case histCountFloat:
		p.isFloat = true
		p.countFloat, next = double(b, i)
	case histSum:
		p.sum, next = double(b, i)
	case histSchema:
		v, next = uvarint(b, i)
		p.schema = zigzag32(v)
	case histZeroThreshold:
		p.zeroThreshold, next = double(b, i)
	case histZeroCountInt:
		p.zeroInt, next = uvarint(b, i)
		p.zeroFloat = 0
	case histZeroCountFloat:
		p.zeroFloat, next = double(b, i)
		p.zeroInt = 0
	case histResetHint:
		v, next = uvarint(b, i)
		p.resetHint = resetHint(v)
	case histTimestamp:
		v, next = uvarint(b, i)
		p.timestamp = int64(v)
	case histCustomValues | typeFixed64, histCustomValues | typeBytes:
		p.custom, next = appendDoubles(p.custom, tag, b, i)
	case histNegativeSpans, histNegativeDeltas | typeVarint, histNegativeDeltas | typeBytes, histNegativeCounts | typeFixed64, histNegativeCounts | typeBytes:
		return p.negative.readField(tag+histPositiveSpans-histNegativeSpans, b, i)
	case histPositiveSpans, histPositiveDeltas | typeVarint, histPositiveDeltas | typeBytes, histPositiveCounts | typeFixed64, histPositiveCounts | typeBytes:
		return p.positive.readField(tag, b, i)
	default:
		return skip(b, at, m)
	}
	return next, nil
}

// readField reads a field of the buckets, by its tag for the positive ones.
func (k *buckets) readField(tag uint64, b []byte, i int) (next int, err error) {
	switch tag {
	case histPositiveDeltas | typeVarint, histPositiveDeltas | typeBytes:
		k.deltas, next = appendZigzags(k.deltas, tag, b, i)
	case histPositiveCounts | typeFixed64, histPositiveCounts | typeBytes:
		k.counts, next = appendDoubles(k.counts, tag, b, i)
	default:
		var lo int
		if lo, next = span(b, i); next < 0 {
			return next, nil
		}
		var s histogram.Span
		s, err = readBucketSpan(b[:next], lo)
		k.spans = append(k.spans, s)
	}
	return next, err
}

func readBucketSpan(b []byte, i int) (s histogram.Span, err error) {
	for i < len(b) {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case spanOffset, spanLength:
			var v uint64
			if v, i = uvarint(b, next); i < 0 {
				return s, fault(b, at, &bucketSpan)
			}
			if tag == spanOffset {
				s.Offset = zigzag32(v)
			} else {
				s.Length = uint32(v)
			}
		default:
			if i, err = skip(b, at, &bucketSpan); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// appendZigzags reads one signed number, or packed ones, as the tag says.
func appendZigzags(dst []int64, tag uint64, b []byte, i int) (_ []int64, next int) {
	if tag&7 == typeVarint {
		v, next := uvarint(b, i)
		return append(dst, zigzag(v)), next
	}
	lo, hi := span(b, i)
	if hi < 0 {
		return dst, -1
	}
	for b, i = b[:hi], lo; i < hi; {
		var v uint64
		if v, i = uvarint(b, i); i < 0 {
			return dst, -1
		}
		dst = append(dst, zigzag(v))
	}
	return dst, hi
}

// appendDoubles reads one double, or packed ones, as the tag says.
func appendDoubles(dst []float64, tag uint64, b []byte, i int) (_ []float64, next int) {
	if tag&7 == typeFixed64 {
		v, next := double(b, i)
		return append(dst, v), next
	}
	lo, hi := span(b, i)
	if hi < 0 || (hi-lo)%8 != 0 {
		return dst, -1
	}
	for ; lo < hi; lo += 8 {
		dst = append(dst, math.Float64frombits(binary.LittleEndian.Uint64(b[lo:])))
	}
	return dst, hi
}

// zigzag32 reads a signed number of which 32 bits count.
func zigzag32(v uint64) int32 { return int32(uint32(v)>>1) ^ -int32(v&1) }

// resetHint reads an enum of which 32 bits count. A hint that we do not know
// says nothing about a reset.
func resetHint(v uint64) histogram.CounterResetHint {
	if n := uint32(v); n <= uint32(histogram.GaugeType) {
		return histogram.CounterResetHint(n)
	}
	return histogram.UnknownCounterReset
}

func (p *histogramParts) integer() *histogram.Histogram {
	h := &histogram.Histogram{
		CounterResetHint: p.resetHint,
		Schema:           p.schema,
		ZeroThreshold:    p.zeroThreshold,
		ZeroCount:        p.zeroInt,
		Count:            p.countInt,
		Sum:              p.sum,
		CustomValues:     clone(p.custom),
	}
	h.PositiveSpans, h.NegativeSpans = clonePair(p.positive.spans, p.negative.spans)
	h.PositiveBuckets, h.NegativeBuckets = clonePair(p.positive.deltas, p.negative.deltas)
	return h
}

func (p *histogramParts) float() *histogram.FloatHistogram {
	h := &histogram.FloatHistogram{
		CounterResetHint: p.resetHint,
		Schema:           p.schema,
		ZeroThreshold:    p.zeroThreshold,
		ZeroCount:        p.zeroFloat,
		Count:            p.countFloat,
		Sum:              p.sum,
		CustomValues:     clone(p.custom),
	}
	h.PositiveSpans, h.NegativeSpans = clonePair(p.positive.spans, p.negative.spans)
	h.PositiveBuckets, h.NegativeBuckets = clonePair(p.positive.counts, p.negative.counts)
	return h
}

// clone copies s without spare room. It is nil if there is nothing to copy.
func clone[T any](s []T) []T {
	c, _ := clonePair(s, nil)
	return c
}

// clonePair copies two slices into one piece of memory. Neither has room to
// grow into the other.
func clonePair[T any](a, b []T) (_, _ []T) {
	n := len(a) + len(b)
	if n == 0 {
		return nil, nil
	}
	both := append(append(make([]T, 0, n), a...), b...)
	a, b = both[:len(a):len(a)], both[len(a):n:n]
	if len(a) == 0 {
		a = nil
	}
	if len(b) == 0 {
		b = nil
	}
	return a, b
}
