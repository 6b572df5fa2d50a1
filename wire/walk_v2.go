package wire

import (
	"slices"
	"strings"

	"github.com/prometheus/common/model"
)

// Tags of the messages of remote write 2.0. Repeated numbers come packed into
// one field of bytes, or each in a field of its own.
const (
	v2Symbols    = 4<<3 | typeBytes
	v2Timeseries = 5<<3 | typeBytes

	v2SeriesRefs       = 1<<3 | typeBytes
	v2SeriesRef        = 1<<3 | typeVarint
	v2SeriesSamples    = 2<<3 | typeBytes
	v2SeriesHistograms = 3<<3 | typeBytes
	v2SeriesExemplars  = 4<<3 | typeBytes
	v2SeriesMetadata   = 5<<3 | typeBytes

	v2ExemplarRefs = 1<<3 | typeBytes
	v2ExemplarRef  = 1<<3 | typeVarint

	v2MetadataType = 1<<3 | typeVarint
	v2MetadataHelp = 3<<3 | typeVarint
	v2MetadataUnit = 4<<3 | typeVarint
)

var (
	v2Request  = message{"request", [18]field{4: {"symbols", asBytes}, 5: {"timeseries", asBytes}}}
	v2Series   = message{"timeseries", [18]field{1: {"labels_refs", asVarint | asBytes}, 2: {"samples", asBytes}, 3: {"histograms", asBytes}, 4: {"exemplars", asBytes}, 5: {"metadata", asBytes}}}
	v2Sample   = message{"sample", [18]field{1: {"value", asDouble}, 2: {"timestamp", asVarint}, 3: {"start_timestamp", asVarint}}}
	v2Exemplar = message{"exemplar", [18]field{1: {"labels_refs", asVarint | asBytes}, 2: {"value", asDouble}, 3: {"timestamp", asVarint}}}
	v2Meta     = message{"metadata", [18]field{1: {"type", asVarint}, 3: {"help_ref", asVarint}, 4: {"unit_ref", asVarint}}}
)

func (r *Request) walkV2() error {
	// Symbols may stand behind the series that refer to them.
	first, err := r.readSymbols()
	if err != nil || first < 0 {
		return err
	}
	if len(r.symbols) == 0 || r.symbols[0] != "" {
		return malformed("request.symbols", 0, "the first symbol is not the empty string")
	}
	b := r.body
	for i := first; i < len(b); {
		at := i
		if tag, next := uvarint(b, at); tag == v2Timeseries {
			var lo int
			lo, i = span(b, next)
			err = r.walkSeriesV2(lo, i)
		} else {
			i, err = skip(b, at, &opaque)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readSymbols collects the symbols, and finds where the first series is: a
// negative number if there is none.
func (r *Request) readSymbols() (first int, err error) {
	b, foreign := r.body, false
	first = -1
	for i := 0; i < len(b); {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case v2Symbols, v2Timeseries:
			var lo int
			if lo, i = span(b, next); i < 0 {
				return 0, fault(b, at, &v2Request)
			}
			if tag == v2Symbols {
				r.addSymbol(text(b[lo:i]))
			} else if first < 0 {
				first = at
			}
		case v1Timeseries, v1Metadata:
			foreign = true
			fallthrough
		default:
			if i, err = skip(b, at, &v2Request); err != nil {
				return 0, err
			}
		}
	}
	if foreign && first < 0 {
		return 0, malformed("request", 0, "it has the fields of remote write 1.0, but the Content-Type says 2.0")
	}
	return first, nil
}

func (r *Request) addSymbol(s string) {
	if !ValidUTF8(s) {
		r.notUTF8 = append(r.notUTF8, uint32(len(r.symbols)))
	}
	r.symbols = append(r.symbols, s)
}

// walkSeriesV2 reads the series in body[lo:hi].
func (r *Request) walkSeriesV2(lo, hi int) (err error) {
	b, s, ls := r.body[:hi], r.begin(lo, hi), &r.labels
	var meta metadataRefs
	r.refs, ls.plain = r.refs[:0], false
	for i := lo; i < hi; {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case v2SeriesRefs, v2SeriesSamples, v2SeriesHistograms, v2SeriesExemplars, v2SeriesMetadata:
			var from int
			if from, i = span(b, next); i < 0 {
				return fault(b, at, &v2Series)
			}
			err = r.seriesFieldV2(tag, b[:i], from, &meta)
		case v2SeriesRef:
			var v uint64
			if v, i = uvarint(b, next); i < 0 {
				return fault(b, at, &v2Series)
			}
			r.refs = append(r.refs, uint32(v))
		default:
			i, err = skip(b, at, &v2Series)
		}
		if err != nil {
			return err
		}
	}
	if !ls.addRefs(r.refs, r.symbols) {
		return badRefs("timeseries.labels_refs", lo, r.refs, r.symbols)
	}
	s.ValidUTF8 = len(r.notUTF8) == 0 || r.refsUTF8()
	if max(meta.help, meta.unit) >= uint32(len(r.symbols)) {
		return badRefs("timeseries.metadata", lo, []uint32{meta.help, meta.unit}, r.symbols)
	}
	kept, err := r.finish(s)
	if kept && meta != (metadataRefs{}) {
		r.addMetadata(meta)
	}
	return err
}

// seriesFieldV2 reads a field of a series, whose tag is given and whose bytes
// are b[i:].
func (r *Request) seriesFieldV2(tag uint64, b []byte, i int, meta *metadataRefs) (err error) {
	switch tag {
	case v2SeriesRefs:
		var ok bool
		if r.refs, ok = appendRefs(r.refs, b, i); !ok {
			err = malformed("timeseries.labels_refs", i, "the last reference is cut short, or one is longer than ten bytes")
		}
	case v2SeriesSamples:
		var s Sample
		s, err = readSample(b, i, &v2Sample)
		r.Samples = append(r.Samples, s)
	case v2SeriesHistograms:
		err = r.addHistogram(b, i, &v2Histogram)
	case v2SeriesExemplars:
		err = r.exemplarV2(b, i)
	default:
		err = meta.read(b, i)
	}
	return err
}

// appendRefs reads packed references to symbols.
func appendRefs(refs []uint32, b []byte, i int) (_ []uint32, ok bool) {
	for i < len(b) {
		v, next := uint64(b[i]), i+1
		if v >= 0x80 {
			if next < len(b) && b[next] < 0x80 {
				v, next = v&0x7f|uint64(b[next])<<7, next+1
			} else if v, next = longUvarint(b, i); next < 0 {
				return refs, false
			}
		}
		refs, i = append(refs, uint32(v)), next
	}
	return refs, true
}

// addRefs takes in the labels that pairs of references stand for. It is false
// if one reference has no symbol, or no partner.
func (ls *labelSet) addRefs(refs []uint32, symbols []string) bool {
	list, n := ls.list, 0
	for ; len(refs) >= 2; refs = refs[2:] {
		if uint(refs[0]) >= uint(len(symbols)) || uint(refs[1]) >= uint(len(symbols)) {
			return false
		}
		name, value := symbols[refs[0]], symbols[refs[1]]
		if value == "" {
			continue
		}
		// What is too long is not compared either.
		if len(list) > 0 && n <= MaxLabelBytes && !inOrder(list[len(list)-1].Name, name) {
			ls.sorted = false
		}
		list = append(list, Label{name, value})
		n += len(name) + len(value)
	}
	ls.list = list
	ls.bytes += n
	return len(refs) == 0
}

func badRefs(where string, at int, refs []uint32, symbols []string) error {
	for _, ref := range refs {
		if uint64(ref) >= uint64(len(symbols)) {
			return malformed(where, at, "a reference to symbol %d, but there are only %d symbols", ref, len(symbols))
		}
	}
	return malformed(where, at, "%d references to symbols, which are not pairs of a name and a value", len(refs))
}

// refsUTF8 reports whether the labels of the series are valid UTF-8, of which
// those with an empty value are none.
func (r *Request) refsUTF8() bool {
	for i := 0; i < len(r.refs); i += 2 {
		name, value := r.refs[i], r.refs[i+1]
		_, badName := slices.BinarySearch(r.notUTF8, name)
		_, badValue := slices.BinarySearch(r.notUTF8, value)
		if badValue || badName && r.symbols[value] != "" {
			return false
		}
	}
	return true
}

// readV2 collects the labels of the series in b[i:] once more.
func (ls *labelSet) readV2(b []byte, i int, symbols []string) error {
	var few [64]uint32
	refs := few[:0]
	for i < len(b) {
		at := i
		var err error
		if i, err = skip(b, at, &opaque); err != nil {
			return err
		}
		switch tag, next := uvarint(b, at); tag {
		case v2SeriesRefs:
			_, lo := uvarint(b, next)
			refs, _ = appendRefs(refs, b[:i], lo)
		case v2SeriesRef:
			refs, _ = appendRefs(refs, b[:i], next)
		}
	}
	if !ls.addRefs(refs, symbols) {
		return badRefs("timeseries.labels_refs", i, refs, symbols)
	}
	return nil
}

// exemplarV2 reads the exemplar in b[i:].
func (r *Request) exemplarV2(b []byte, i int) (err error) {
	start, n := i, len(r.refs) // behind the series' own references
	var x Exemplar
	for i < len(b) {
		at := i
		switch tag, next := uvarint(b, at); tag {
		case v2ExemplarRefs:
			var lo int
			if lo, i = span(b, next); i < 0 {
				break
			}
			var ok bool
			if r.refs, ok = appendRefs(r.refs, b[:i], lo); !ok {
				return malformed("exemplar.labels_refs", lo, "the last reference is cut short, or one is longer than ten bytes")
			}
		case v2ExemplarRef:
			var v uint64
			v, i = uvarint(b, next)
			r.refs = append(r.refs, uint32(v))
		case exemplarValue:
			x.V, i = double(b, next)
		case exemplarTimestamp:
			var t uint64
			t, i = uvarint(b, next)
			x.T = int64(t)
		default:
			i, err = skip(b, at, &v2Exemplar)
		}
		if err != nil {
			return err
		}
		if i < 0 {
			return fault(b, at, &v2Exemplar)
		}
	}
	refs := r.refs[n:]
	r.refs = r.refs[:n]
	return r.exemplarRefs(x, refs, start)
}

// exemplarRefs adds an exemplar whose labels the pairs of references stand for.
func (r *Request) exemplarRefs(x Exemplar, refs []uint32, at int) error {
	first := len(r.ExemplarLabels)
	for rest := refs; len(rest) > 0; rest = rest[2:] {
		if len(rest) == 1 || max(rest[0], rest[1]) >= uint32(len(r.symbols)) {
			return badRefs("exemplar.labels_refs", at, refs, r.symbols)
		}
		if l := (Label{r.symbols[rest[0]], r.symbols[rest[1]]}); l.Value != "" {
			r.ExemplarLabels = append(r.ExemplarLabels, l)
		}
	}
	return r.addExemplar(x, first)
}

// metadataRefs is the metadata of a series: its type and two symbols. The zero
// value says nothing.
type metadataRefs struct{ typ, help, unit uint32 }

// read reads the metadata in b[i:]. Of metadata that comes in pieces, the last
// piece that has a field decides it.
func (m *metadataRefs) read(b []byte, i int) (err error) {
	for i < len(b) {
		at := i
		tag, next := uvarint(b, at)
		switch tag {
		case v2MetadataType, v2MetadataHelp, v2MetadataUnit:
			var v uint64
			if v, i = uvarint(b, next); i < 0 {
				return fault(b, at, &v2Meta)
			}
			switch tag {
			case v2MetadataType:
				m.typ = uint32(v)
			case v2MetadataHelp:
				m.help = uint32(v)
			default:
				m.unit = uint32(v)
			}
		default:
			if i, err = skip(b, at, &v2Meta); err != nil {
				return err
			}
		}
	}
	return nil
}

// addMetadata adds the metadata of the series just walked, as that of its
// family, if it says something that the entry before it does not. It compares
// references, not texts: these are equal if their symbols are the same, and
// may be very long if they are not.
func (r *Request) addMetadata(refs metadataRefs) {
	m := Metadata{Type: metricType(uint64(refs.typ)), Help: r.symbols[refs.help], Unit: r.symbols[refs.unit]}
	if m.Type == model.MetricTypeUnknown && m.Help == "" && m.Unit == "" {
		return
	}
	m.Family = family(m.Type, r.labels.list)
	n := len(r.Metadata)
	if m.Family == "" || n > 0 && refs == r.lastMetadata && m.Family == r.Metadata[n-1].Family {
		return
	}
	r.Metadata, r.lastMetadata = append(r.Metadata, m), refs
}

// What the series of one family have behind the family's name, by type.
var (
	histogramSuffixes      = []string{"_bucket", "_count", "_sum", "_created"}
	gaugeHistogramSuffixes = []string{"_bucket", "_gcount", "_gsum", "_count", "_sum"}
	summarySuffixes        = []string{"_count", "_sum", "_created"}
)

// family is the name of the family that a series is of.
func family(t model.MetricType, ls []Label) string {
	i := slices.IndexFunc(ls, func(l Label) bool { return l.Name == model.MetricNameLabel })
	if i < 0 {
		return ""
	}
	name := ls[i].Value
	var suffixes []string
	switch t {
	case model.MetricTypeHistogram:
		suffixes = histogramSuffixes
	case model.MetricTypeGaugeHistogram:
		suffixes = gaugeHistogramSuffixes
	case model.MetricTypeSummary:
		suffixes = summarySuffixes
	}
	for _, s := range suffixes {
		if f, ok := strings.CutSuffix(name, s); ok && f != "" {
			return f
		}
	}
	return name
}
