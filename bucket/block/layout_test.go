package block

import (
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

// chunkOf has one histogram.
func chunkOf(t *testing.T, h *histogram.Histogram) chunkenc.Chunk {
	t.Helper()
	c := chunkenc.NewHistogramChunk()
	app, err := c.Appender()
	require.NoError(t, err)
	_, _, _, err = app.AppendHistogram(nil, 0, 1, h, false)
	require.NoError(t, err)
	return c
}

// wide is a histogram with buckets that all are 1.
func wide(buckets int, custom bool) *histogram.Histogram {
	h := &histogram.Histogram{Count: uint64(buckets), PositiveSpans: []histogram.Span{{Length: uint32(buckets)}}, PositiveBuckets: make([]int64, buckets)}
	h.PositiveBuckets[0] = 1
	if custom {
		h.Schema = histogram.CustomBucketsSchema
		for i := range buckets {
			h.CustomValues = append(h.CustomValues, float64(i))
		}
	}
	return h
}

func TestLayoutBoundsBuckets(t *testing.T) {
	t.Parallel()
	for _, custom := range []bool{false, true} {
		require.NoError(t, checkLayout(chunkOf(t, wide(maxBuckets, custom))))
		require.ErrorContains(t, checkLayout(chunkOf(t, wide(maxBuckets+1, custom))), "65537 buckets")
	}
	// Bounds alone, without buckets to be counted.
	h := wide(maxBuckets+1, true)
	h.PositiveSpans, h.PositiveBuckets, h.Count = nil, nil, 0
	require.ErrorContains(t, checkLayout(chunkOf(t, h)), "65537 bounds")
	require.NoError(t, checkLayout(chunkenc.NewXORChunk()))
}

// FuzzLayout reads chunks that pass: none makes its reader allocate much, or
// panic in another way than Verify expects.
func FuzzLayout(f *testing.F) {
	for i := range int64(4) {
		c := chunkenc.NewHistogramChunk()
		app, err := c.Appender()
		require.NoError(f, err)
		_, _, _, err = app.AppendHistogram(nil, 0, 1, tsdbutil.GenerateTestHistogram(i), false)
		require.NoError(f, err)
		f.Add(c.Bytes(), byte(i))
	}
	encodings := []chunkenc.Encoding{chunkenc.EncHistogram, chunkenc.EncFloatHistogram, chunkenc.EncHistogramST, chunkenc.EncFloatHistogramST}
	f.Fuzz(func(t *testing.T, data []byte, kind byte) {
		c, err := chunkenc.FromData(encodings[int(kind)%len(encodings)], data)
		if err != nil || len(data) < 3 || checkLayout(c) != nil {
			return
		}
		defer func() { _ = recover() }() // Verify has one, too
		it := c.Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			_, fh := it.AtFloatHistogram(nil)
			if n := len(fh.PositiveBuckets) + len(fh.NegativeBuckets) + len(fh.CustomValues); n > 3*maxBuckets {
				t.Errorf("%d buckets and bounds", n)
			}
		}
	})
}
