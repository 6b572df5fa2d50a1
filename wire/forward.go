package wire

import (
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"google.golang.org/protobuf/encoding/protowire"
)

// Whole says that the request is as its sender wrote it: nothing was left out
// or altered since, so that the sender's bytes say the same.
func (r *Request) Whole() bool { return !r.Altered && r.leftOut == 0 }

// BodySize is the bytes of the body.
func (r *Request) BodySize() int { return len(r.body) }

// AppendBody appends the body to buf.
func (r *Request) AppendBody(buf []byte) []byte { return append(buf, r.body...) }

// AppendPart appends to buf a body with some of the request's series, in the
// order of items, and its metadata, and returns the body's version. Series are
// copied byte for byte, unless check has altered some: then all are encoded
// anew.
func (r *Request) AppendPart(buf []byte, items []int) ([]byte, Version, error) {
	switch {
	case r.Altered:
		return r.encodePart(buf, items)
	case r.Version == V1:
		buf = r.appendSeries(buf, v1Timeseries, items)
		return r.appendMetadata(buf), V1, nil
	default: // metadata of 2.0 is in the series
		for _, s := range r.symbols {
			buf = protowire.AppendVarint(buf, v2Symbols)
			buf = protowire.AppendString(buf, s)
		}
		return r.appendSeries(buf, v2Timeseries, items), V2, nil
	}
}

// Part is the request with some of its series only. It shares all memory, and
// is valid as long as r.
func (r *Request) Part(items []int) *Request {
	part := *r
	part.Series = make([]Series, len(items))
	for n, i := range items {
		part.Series[n] = r.Series[i]
	}
	return &part
}

func (r *Request) appendSeries(buf []byte, tag uint64, items []int) []byte {
	for _, i := range items {
		s := &r.Series[i]
		buf = protowire.AppendVarint(buf, tag)
		buf = protowire.AppendBytes(buf, r.body[s.lo:s.hi])
	}
	return buf
}

func (r *Request) appendMetadata(buf []byte) []byte {
	for i := range r.Metadata {
		m := &r.Metadata[i]
		msg, err := (&prompb.MetricMetadata{Type: prompb.FromMetadataType(m.Type), MetricFamilyName: m.Family, Help: m.Help, Unit: m.Unit}).Marshal()
		if err != nil {
			continue // it cannot: there is nothing in it that has no encoding
		}
		buf = protowire.AppendVarint(buf, v1Metadata)
		buf = protowire.AppendBytes(buf, msg)
	}
	return buf
}

// encodePart is AppendPart for a request of which the bytes tell too much.
func (r *Request) encodePart(buf []byte, items []int) ([]byte, Version, error) {
	var ls []Label
	for _, i := range items {
		s := &r.Series[i]
		ls = r.Labels(i, ls)
		ts := prompb.TimeSeries{Labels: pbLabels(ls)}
		for _, x := range r.Samples[s.Samples.Lo:s.Samples.Hi] {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: x.T, Value: x.V})
		}
		for _, x := range r.Histograms[s.Histograms.Lo:s.Histograms.Hi] {
			if x.H != nil {
				ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(x.T, x.H))
			} else {
				ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(x.T, x.FH))
			}
		}
		for _, x := range r.Exemplars[s.Exemplars.Lo:s.Exemplars.Hi] {
			ts.Exemplars = append(ts.Exemplars, prompb.Exemplar{Labels: pbLabels(r.ExemplarLabels[x.Labels.Lo:x.Labels.Hi]), Value: x.V, Timestamp: x.T})
		}
		msg, err := ts.Marshal()
		if err != nil {
			return nil, V1, fmt.Errorf("encode series: %w", err)
		}
		buf = protowire.AppendVarint(buf, v1Timeseries)
		buf = protowire.AppendBytes(buf, msg)
	}
	return r.appendMetadata(buf), V1, nil
}

func pbLabels(ls []Label) []prompb.Label {
	b := labels.NewScratchBuilder(len(ls))
	for _, l := range ls {
		b.Add(l.Name, l.Value)
	}
	return prompb.FromLabels(b.Labels(), nil)
}
