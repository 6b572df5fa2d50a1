package block

import (
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// maxBuckets is more than any histogram has that is of use to somebody.
const maxBuckets = 1 << 16

// layoutAt is where a chunk of histograms, of whatever kind, tells its layout.
const layoutAt = 3

var errShortLayout = errors.New("the layout of its histograms is not whole")

// checkLayout looks at how many buckets a chunk says that its histograms have:
// its reader allocates them all before it reads the first, so that a few bytes
// could have it allocate all memory.
func checkLayout(chunk chunkenc.Chunk) error {
	switch chunk.Encoding() {
	case chunkenc.EncHistogram, chunkenc.EncFloatHistogram, chunkenc.EncHistogramST, chunkenc.EncFloatHistogramST:
	default:
		return nil
	}
	data := chunk.Bytes()
	if len(data) < layoutAt {
		return errShortLayout
	}
	r := &bitReader{data: data[layoutAt:]}
	if r.bits(8) == 255 { // the zero threshold, if it is not one of the usual
		r.bits(64)
	}
	custom := histogram.IsCustomBucketsSchema(int32(r.signed()))
	for range 2 { // positive and negative buckets
		spans, buckets := r.varbit(), uint64(0)
		for range min(spans, maxBuckets+1) {
			if buckets += uint64(uint32(r.varbit())); r.short {
				return errShortLayout
			}
			r.varbit() // the distance to the next span
		}
		if spans > maxBuckets || buckets > maxBuckets {
			return fmt.Errorf("its histograms have %d spans with %d buckets, %d are allowed", spans, buckets, maxBuckets)
		}
	}
	if custom {
		if n := r.varbit(); n > maxBuckets {
			return fmt.Errorf("its histograms have %d bounds of buckets, %d are allowed", n, maxBuckets)
		}
	}
	if r.short {
		return errShortLayout
	}
	return nil
}

// bitReader reads Prometheus' bit streams.
type bitReader struct {
	data  []byte
	at    int  // bits
	short bool // there were fewer than were asked for
}

func (r *bitReader) bits(n int) (v uint64) {
	if r.at+n > 8*len(r.data) {
		r.short, r.at = true, 8*len(r.data)
		return 0
	}
	for range n {
		v = v<<1 | uint64(r.data[r.at/8]>>(7-r.at%8)&1)
		r.at++
	}
	return v
}

// varbit reads a number.
func (r *bitReader) varbit() uint64 { return r.bits(r.width()) }

// signed reads a number that can be below 0.
func (r *bitReader) signed() int64 {
	n := r.width()
	v := r.bits(n)
	if n > 0 && n < 64 && v > 1<<(n-1) {
		return int64(v) - 1<<n
	}
	return int64(v)
}

// width reads how many bits a number has: there are as many ones before it.
func (r *bitReader) width() int {
	sizes := [...]int{0, 3, 6, 9, 12, 18, 25, 56, 64}
	ones := 0
	for ones < len(sizes)-1 && r.bits(1) == 1 {
		ones++
	}
	return sizes[ones]
}
