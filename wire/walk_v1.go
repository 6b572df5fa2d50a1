package wire

import "github.com/prometheus/common/model"

// Tags (a field's number and wire type) of the messages of remote write 1.0.
const (
	v1Timeseries = 1<<3 | typeBytes
	v1Metadata   = 3<<3 | typeBytes

	v1SeriesLabels     = 1<<3 | typeBytes
	v1SeriesSamples    = 2<<3 | typeBytes
	v1SeriesExemplars  = 3<<3 | typeBytes
	v1SeriesHistograms = 4<<3 | typeBytes

	v1LabelName  = 1<<3 | typeBytes
	v1LabelValue = 2<<3 | typeBytes

	v1MetadataType   = 1<<3 | typeVarint
	v1MetadataFamily = 2<<3 | typeBytes
	v1MetadataHelp   = 4<<3 | typeBytes
	v1MetadataUnit   = 5<<3 | typeBytes
)

// Tags of messages that are the same in both versions, but for an exemplar's
// labels and for start timestamps, which we step over.
const (
	sampleValue     = 1<<3 | typeFixed64
	sampleTimestamp = 2<<3 | typeVarint

	exemplarLabels    = 1<<3 | typeBytes
	exemplarValue     = 2<<3 | typeFixed64
	exemplarTimestamp = 3<<3 | typeVarint
)

var (
	v1Request  = message{"request", [18]field{1: {"timeseries", asBytes}, 3: {"metadata", asBytes}}}
	v1Series   = message{"timeseries", [18]field{1: {"labels", asBytes}, 2: {"samples", asBytes}, 3: {"exemplars", asBytes}, 4: {"histograms", asBytes}}}
	v1Label    = message{"label", [18]field{1: {"name", asBytes}, 2: {"value", asBytes}}}
	v1Sample   = message{"sample", [18]field{1: {"value", asDouble}, 2: {"timestamp", asVarint}}}
	v1Exemplar = message{"exemplar", [18]field{1: {"labels", asBytes}, 2: {"value", asDouble}, 3: {"timestamp", asVarint}}}
	v1Meta     = message{"metadata", [18]field{1: {"type", asVarint}, 2: {"metric_family_name", asBytes}, 4: {"help", asBytes}, 5: {"unit", asBytes}}}
)

func (r *Request) walkV1() (err error) {
	b, native, foreign := r.body, false, false
	for i := 0; i < len(b); {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case v1Timeseries, v1Metadata:
			var lo int
			if lo, i = span(b, next); i < 0 {
				return fault(b, at, &v1Request)
			}
			native = true
			if tag == v1Timeseries {
				err = r.walkSeriesV1(lo, i)
			} else {
				err = r.metadataV1(b[:i], lo)
			}
		case v2Symbols, v2Timeseries:
			foreign = true
			fallthrough
		default:
			i, err = skip(b, at, &v1Request)
		}
		if err != nil {
			return err
		}
	}
	if foreign && !native {
		return malformed("request", 0, "it has the fields of remote write 2.0, but the Content-Type says 1.0")
	}
	return nil
}

// walkSeriesV1 reads the series in body[lo:hi].
func (r *Request) walkSeriesV1(lo, hi int) (err error) {
	b, s, ls := r.body[:hi], r.begin(lo, hi), &r.labels
	for i := lo; i < hi; {
		at := ls.addPlain(b, i)
		if at == hi {
			break
		}
		switch tag, next := uvarint(b, at); tag {
		case v1SeriesLabels, v1SeriesSamples, v1SeriesExemplars, v1SeriesHistograms:
			var from int
			if from, i = span(b, next); i < 0 {
				return fault(b, at, &v1Series)
			}
			err = r.seriesFieldV1(tag, b[:i], at, from)
		default:
			i, err = skip(b, at, &v1Series)
		}
		if err != nil {
			return err
		}
	}
	s.ValidUTF8 = ls.plain && ascii(text(b[ls.lo:ls.hi])) || validUTF8(ls.list)
	_, err = r.finish(s)
	return err
}

// seriesFieldV1 reads a field of a series, whose tag is at b[at:] and whose
// bytes are b[i:].
func (r *Request) seriesFieldV1(tag uint64, b []byte, at, i int) error {
	switch tag {
	case v1SeriesLabels:
		return r.labels.addV1(b, at, i)
	case v1SeriesSamples:
		s, err := readSample(b, i, &v1Sample)
		r.Samples = append(r.Samples, s)
		return err
	case v1SeriesHistograms:
		return r.addHistogram(b, i, &v1Histogram)
	default:
		return r.exemplarV1(b, i)
	}
}

// addPlain takes in the labels from b[i:] on, as long as each is framed as
// senders frame them: name before value, nothing else, and all lengths in one
// byte. It returns where the first stands that is different in any way, or
// that is no label. This is where most of the time goes, and the reason why it
// is not in addV1.
func (ls *labelSet) addPlain(b []byte, i int) int {
	from, list, n := i, ls.list, 0
	for i+5 < len(b) && b[i] == v1SeriesLabels && b[i+1] < 0x80 && b[i+2] == v1LabelName && b[i+3] < 0x80 {
		end := i + 2 + int(b[i+1])
		v := i + 4 + int(b[i+3]) // the value's tag
		if end > len(b) || v+2 >= end || b[v] != v1LabelValue || b[v+1] != byte(end-v-2) {
			break
		}
		name := text(b[i+4 : v])
		if len(list) > 0 && !inOrder(list[len(list)-1].Name, name) {
			ls.sorted = false
		}
		list = append(list, Label{name, text(b[v+2 : end])})
		n += end - i - 6
		i = end
	}
	if i > from {
		ls.list = list
		ls.bytes += n
		ls.framed(from, i, true)
	}
	return i
}

// addV1 takes in the label in b[i:], whose tag in the series is at b[at:].
func (ls *labelSet) addV1(b []byte, at, i int) error {
	name, value, err := readLabel(b, i)
	if err != nil {
		return err
	}
	ls.add(name, value)
	// What is as short as the canonical form and has a name first is that form.
	canonical := value != "" && b[i] == v1LabelName && len(b)-at == canonicalLen(name, value)
	ls.framed(at, len(b), canonical)
	return nil
}

func readLabel(b []byte, i int) (name, value string, err error) {
	for i < len(b) {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case v1LabelName, v1LabelValue:
			var lo int
			if lo, i = span(b, next); i < 0 {
				return "", "", fault(b, at, &v1Label)
			}
			if tag == v1LabelName {
				name = text(b[lo:i])
			} else {
				value = text(b[lo:i])
			}
		default:
			if i, err = skip(b, at, &v1Label); err != nil {
				return "", "", err
			}
		}
	}
	return name, value, nil
}

// readV1 collects the labels of the series in b[i:] once more.
func (ls *labelSet) readV1(b []byte, i int) (err error) {
	for i < len(b) {
		at := ls.addPlain(b, i)
		if at == len(b) {
			return nil
		}
		if i, err = skip(b, at, &opaque); err != nil {
			return err
		}
		if tag, next := uvarint(b, at); tag == v1SeriesLabels {
			lo, _ := span(b, next)
			if err := ls.addV1(b[:i], at, lo); err != nil {
				return err
			}
		}
	}
	return nil
}

// readSample reads the sample in b[i:].
func readSample(b []byte, i int, m *message) (s Sample, err error) {
	// The usual form: both fields, the value first.
	if len(b)-i > 10 && b[i] == sampleValue && b[i+9] == sampleTimestamp {
		s.V, _ = double(b, i+1)
		t, next := uvarint(b, i+10)
		if next == len(b) {
			s.T = int64(t)
			return s, nil
		}
	}
	for i < len(b) {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case sampleValue:
			s.V, i = double(b, next)
		case sampleTimestamp:
			var t uint64
			t, i = uvarint(b, next)
			s.T = int64(t)
		default:
			i, err = skip(b, at, m)
		}
		if err != nil {
			return Sample{}, err
		}
		if i < 0 {
			return Sample{}, fault(b, at, m)
		}
	}
	return s, nil
}

// exemplarV1 reads the exemplar in b[i:].
func (r *Request) exemplarV1(b []byte, i int) (err error) {
	x, first := Exemplar{}, len(r.ExemplarLabels)
	for i < len(b) {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case exemplarLabels:
			var lo int
			if lo, i = span(b, next); i < 0 {
				break
			}
			var l Label
			if l.Name, l.Value, err = readLabel(b[:i], lo); l.Value != "" {
				r.ExemplarLabels = append(r.ExemplarLabels, l)
			}
		case exemplarValue:
			x.V, i = double(b, next)
		case exemplarTimestamp:
			var t uint64
			t, i = uvarint(b, next)
			x.T = int64(t)
		default:
			i, err = skip(b, at, &v1Exemplar)
		}
		if err != nil {
			return err
		}
		if i < 0 {
			return fault(b, at, &v1Exemplar)
		}
	}
	return r.addExemplar(x, first)
}

// addExemplar adds an exemplar whose labels are r.ExemplarLabels[first:]. As
// everywhere in Prometheus, a timestamp of zero means that there is none.
func (r *Request) addExemplar(x Exemplar, first int) error {
	ls := r.ExemplarLabels[first:]
	n := 0
	for i := range ls {
		n += len(ls[i].Name) + len(ls[i].Value)
	}
	if err := r.countLabels(n); err != nil {
		return err
	}
	if n <= MaxLabelBytes {
		sortLabels(ls)
	}
	x.Labels = Range{uint32(first), uint32(len(r.ExemplarLabels))}
	x.HasTS = x.T != 0
	r.Exemplars = append(r.Exemplars, x)
	return nil
}

// metadataV1 reads the metadata of a family in b[i:]. Without a family it
// describes nothing, and is left out.
func (r *Request) metadataV1(b []byte, i int) (err error) {
	m := Metadata{Type: model.MetricTypeUnknown}
	for i < len(b) {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case v1MetadataType:
			var t uint64
			t, i = uvarint(b, next)
			m.Type = metricType(t)
		case v1MetadataFamily, v1MetadataHelp, v1MetadataUnit:
			var lo int
			if lo, i = span(b, next); i < 0 {
				break
			}
			switch tag {
			case v1MetadataFamily:
				m.Family = text(b[lo:i])
			case v1MetadataHelp:
				m.Help = text(b[lo:i])
			default:
				m.Unit = text(b[lo:i])
			}
		default:
			i, err = skip(b, at, &v1Meta)
		}
		if err != nil {
			return err
		}
		if i < 0 {
			return fault(b, at, &v1Meta)
		}
	}
	if m.Family != "" {
		r.Metadata = append(r.Metadata, m)
	}
	return nil
}

// metricTypes are the numbers of the types, the same in both versions.
var metricTypes = [...]model.MetricType{
	model.MetricTypeUnknown,
	model.MetricTypeCounter,
	model.MetricTypeGauge,
	model.MetricTypeHistogram,
	model.MetricTypeGaugeHistogram,
	model.MetricTypeSummary,
	model.MetricTypeInfo,
	model.MetricTypeStateset,
}

// metricType reads an enum, which is a varint of which 32 bits count.
func metricType(v uint64) model.MetricType {
	if n := uint32(v); n < uint32(len(metricTypes)) {
		return metricTypes[n]
	}
	return model.MetricTypeUnknown
}
