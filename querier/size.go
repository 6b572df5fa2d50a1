package querier

import (
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// About what is sent of an answer, before it is compressed. The answer itself is
// made only if it may be.
const (
	sampleSize    = 32 // time and value as text
	bucketSize    = 48 // two bounds and a count
	histogramSize = 64
)

// answerSize is about how many bytes the answer to an evaluation has.
func answerSize(v parser.Value) int {
	size := 0
	switch v := v.(type) {
	case promql.Matrix:
		for i := range v {
			s := &v[i]
			size += int(s.Metric.ByteSize()) + sampleSize*len(s.Floats)
			for _, h := range s.Histograms {
				size += sizeOf(h.H)
			}
		}
	case promql.Vector:
		for i := range v {
			s := &v[i]
			size += int(s.Metric.ByteSize()) + sampleSize
			if s.H != nil {
				size += sizeOf(s.H)
			}
		}
	case promql.String:
		size = len(v.V)
	}
	return size
}

func sizeOf(h *histogram.FloatHistogram) int {
	return histogramSize + bucketSize*(len(h.PositiveBuckets)+len(h.NegativeBuckets))
}

func (q *Querier) checkAnswer(l *tenant.Limits, size int) error {
	if l.MaxResponseSize <= 0 || size <= l.MaxResponseSize {
		return nil
	}
	return q.refuse(wire.Errorf(wire.Limited, "err-max-query-response-size",
		"the answer would have about %d bytes, the limit is %d (limit max_query_response_size). Select fewer series, aggregate, use a longer step, or ask for a higher limit",
		size, l.MaxResponseSize))
}

// checkNames is checkAnswer for names or values of labels.
func (q *Querier) checkNames(l *tenant.Limits, names []string) error {
	size := 0
	for _, n := range names {
		size += len(n) + len(`"",`)
	}
	return q.checkAnswer(l, size)
}
