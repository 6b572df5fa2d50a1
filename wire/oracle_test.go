package wire

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// What a message says, as text with one fact a line, so that what two decoders
// read can be compared and a difference be seen. Floats are shown by their bits.

type transcript struct{ strings.Builder }

func (t *transcript) labels(what string, ls []Label) {
	fmt.Fprintf(t, "%s %q\n", what, ls)
}

func (t *transcript) sample(ts int64, v float64) {
	fmt.Fprintf(t, "  sample %d %x\n", ts, math.Float64bits(v))
}

func (t *transcript) exemplar(ls []Label, ts int64, v float64, hasTS bool) {
	fmt.Fprintf(t, "  exemplar %q %d %x %v\n", ls, ts, math.Float64bits(v), hasTS)
}

func (t *transcript) metadata(typ model.MetricType, family, help, unit string) {
	fmt.Fprintf(t, "metadata %s %q %q %q\n", typ, family, help, unit)
}

func (t *transcript) histogram(ts int64, h *histogram.Histogram, fh *histogram.FloatHistogram) {
	if h != nil {
		fmt.Fprintf(t, "  histogram %d hint %d schema %d zero %x %d count %d sum %x + %v %v - %v %v custom %x\n", ts,
			h.CounterResetHint, h.Schema, math.Float64bits(h.ZeroThreshold), h.ZeroCount, h.Count, math.Float64bits(h.Sum),
			h.PositiveSpans, h.PositiveBuckets, h.NegativeSpans, h.NegativeBuckets, bitsOf(h.CustomValues))
	}
	if fh != nil {
		fmt.Fprintf(t, "  histogram %d hint %d schema %d zero %x %x count %x sum %x + %v %x - %v %x custom %x\n", ts,
			fh.CounterResetHint, fh.Schema, math.Float64bits(fh.ZeroThreshold), math.Float64bits(fh.ZeroCount), math.Float64bits(fh.Count), math.Float64bits(fh.Sum),
			fh.PositiveSpans, bitsOf(fh.PositiveBuckets), fh.NegativeSpans, bitsOf(fh.NegativeBuckets), bitsOf(fh.CustomValues))
	}
}

func bitsOf(vs []float64) []uint64 {
	var bits []uint64
	for _, v := range vs {
		bits = append(bits, math.Float64bits(v))
	}
	return bits
}

// told is what the Request says, with the labels that Labels decodes again.
func told(r *Request) string {
	var t transcript
	var buf []Label
	for i, s := range r.Series {
		buf = r.Labels(i, buf)
		t.labels("series", buf)
		for _, s := range r.Samples[s.Samples.Lo:s.Samples.Hi] {
			t.sample(s.T, s.V)
		}
		for _, h := range r.Histograms[s.Histograms.Lo:s.Histograms.Hi] {
			t.histogram(h.T, h.H, h.FH)
		}
		for _, x := range r.Exemplars[s.Exemplars.Lo:s.Exemplars.Hi] {
			t.exemplar(r.ExemplarLabels[x.Labels.Lo:x.Labels.Hi], x.T, x.V, x.HasTS)
		}
	}
	for _, m := range r.Metadata {
		t.metadata(m.Type, m.Family, m.Help, m.Unit)
	}
	return t.String()
}

// normal is labels as check should see them.
func normal(ls []Label) []Label {
	ls = slices.DeleteFunc(slices.Clone(ls), func(l Label) bool { return l.Value == "" })
	slices.SortStableFunc(ls, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	return ls
}

func toldByV1(req *prompb.WriteRequest) string {
	var t transcript
	plain := func(ls []prompb.Label) []Label {
		var out []Label
		for _, l := range ls {
			out = append(out, Label{l.Name, l.Value})
		}
		return normal(out)
	}
	for _, ts := range req.Timeseries {
		t.labels("series", plain(ts.Labels))
		for _, s := range ts.Samples {
			t.sample(s.Timestamp, s.Value)
		}
		for _, h := range ts.Histograms {
			h.ResetHint = known(h.ResetHint)
			if h.IsFloatHistogram() {
				t.histogram(h.Timestamp, nil, h.ToFloatHistogram())
			} else {
				t.histogram(h.Timestamp, h.ToIntHistogram(), nil)
			}
		}
		for _, x := range ts.Exemplars {
			e := x.ToExemplar(new(labels.ScratchBuilder), nil)
			t.exemplar(plain(x.Labels), e.Ts, e.Value, e.HasTs)
		}
	}
	for _, m := range req.Metadata {
		typ := model.MetricType(strings.ToLower(m.Type.String()))
		if _, ok := prompb.MetricMetadata_MetricType_name[int32(m.Type)]; !ok {
			typ = model.MetricTypeUnknown
		}
		if m.MetricFamilyName != "" {
			t.metadata(typ, m.MetricFamilyName, m.Help, m.Unit)
		}
	}
	return t.String()
}

func known[E ~int32](hint E) E {
	if hint < 0 || hint > 3 {
		return 0
	}
	return hint
}

// toldByV2 is an error if the message refers to what it does not have.
func toldByV2(req *writev2.Request) (string, error) {
	if len(req.Timeseries) > 0 && (len(req.Symbols) == 0 || req.Symbols[0] != "") {
		return "", fmt.Errorf("first symbol is not empty")
	}
	var t, meta transcript
	plain := func(refs []uint32) ([]Label, error) {
		var out []Label
		for i, ref := range refs {
			if int(ref) >= len(req.Symbols) || len(refs)%2 != 0 {
				return nil, fmt.Errorf("bad references %d", refs)
			}
			if i%2 == 1 {
				out = append(out, Label{req.Symbols[refs[i-1]], req.Symbols[ref]})
			}
		}
		return normal(out), nil
	}
	lastMeta, lastFamily := writev2.Metadata{}, ""
	for _, ts := range req.Timeseries {
		ls, err := plain(ts.LabelsRefs)
		if err != nil {
			return "", err
		}
		t.labels("series", ls)
		for _, s := range ts.Samples {
			t.sample(s.Timestamp, s.Value)
		}
		for _, h := range ts.Histograms {
			h.ResetHint = known(h.ResetHint)
			if h.IsFloatHistogram() {
				t.histogram(h.Timestamp, nil, h.ToFloatHistogram())
			} else {
				t.histogram(h.Timestamp, h.ToIntHistogram(), nil)
			}
		}
		for _, x := range ts.Exemplars {
			ls, err := plain(x.LabelsRefs)
			if err != nil {
				return "", err
			}
			t.exemplar(ls, x.Timestamp, x.Value, x.Timestamp != 0)
		}
		m, err := ts.ToMetadata(req.Symbols)
		if err != nil {
			return "", err
		}
		ts.Metadata.XXX_unrecognized = nil
		f := family(m.Type, ls)
		same := ts.Metadata.Type == lastMeta.Type && ts.Metadata.HelpRef == lastMeta.HelpRef && ts.Metadata.UnitRef == lastMeta.UnitRef && f == lastFamily
		if f != "" && !m.IsEmpty() && !same && (m.Type != model.MetricTypeUnknown || m.Help != "" || m.Unit != "") {
			meta.metadata(m.Type, f, m.Help, m.Unit)
			lastMeta, lastFamily = ts.Metadata, f
		}
	}
	return t.String() + meta.String(), nil
}

// deliberate are the words of errors for what we refuse and the generated
// decoders take: it is not valid protobuf, but they cannot tell.
var deliberate = regexp.MustCompile(strings.Join([]string{
	`a field has the number`, // they cut it to 32 bits, or do not look into groups
	`histogram\.((nega|posi)tive_(deltas|counts)|custom_values) at byte \d+: the contents`, // packed numbers that end behind their field
	`the last reference is cut short`, // the same
	`but the Content-Type says`,       // the other version's message
	`the labels have more than`,       // MaxLabelBytes
	`the labels of all series have`,   // more than in proportion to the message
}, "|"))

// checkWalk walks body, which may be anything, and compares with what the
// generated decoder made of it: an error, or want.
func checkWalk(t *testing.T, body []byte, v Version, want string, wantErr error) {
	t.Helper()
	// A copy without room behind it, so that reading too far is seen.
	body = slices.Clip(slices.Clone(body))
	var r Request
	var seen [][]Label
	err := r.Walk(body, v, "tenant", func(_ *Series, ls []Label) bool {
		seen = append(seen, slices.Clone(ls))
		return true
	})
	switch {
	case err == nil && wantErr != nil:
		t.Fatalf("walk accepts what the generated decoder refuses with %v:\n%x\n%s", wantErr, body, told(&r))
	case err != nil && wantErr == nil:
		if !deliberate.MatchString(err.Error()) {
			t.Fatalf("walk refuses with %v what the generated decoder takes:\n%x\n%s", err, body, want)
		}
	case err != nil:
		if KindOf(err) != Invalid {
			t.Fatalf("kind %d of %v, want Invalid", KindOf(err), err)
		}
	default:
		if got := told(&r); got != want {
			t.Fatalf("walk reads\n%s\nthe generated decoder reads\n%s\nfrom %x", got, want, body)
		}
		checkNames(t, &r, seen)
	}
}

// checkNames compares what check saw with Labels, and Key, Hash and ValidUTF8
// with what the labels say.
func checkNames(t *testing.T, r *Request, seen [][]Label) {
	t.Helper()
	for i, s := range r.Series {
		ls := r.Labels(i, nil)
		if !slices.Equal(ls, seen[i]) {
			t.Fatalf("check saw %q, Labels are %q", seen[i], ls)
		}
		valid := true
		var b labels.ScratchBuilder
		for _, l := range ls {
			b.Add(l.Name, l.Value)
			valid = valid && model.LabelValue(l.Name).IsValid() && model.LabelValue(l.Value).IsValid()
		}
		if s.ValidUTF8 != valid {
			t.Fatalf("ValidUTF8 is %v for %q", s.ValidUTF8, ls)
		}
		if lset := b.Labels(); s.Key != KeyOf("tenant", lset) || r.Hash(i) != HashOf("tenant", lset) {
			t.Fatalf("%q: key and hash are %x %x in the walk, %x %x of the labels", ls, s.Key, r.Hash(i), KeyOf("tenant", lset), HashOf("tenant", lset))
		}
	}
	// One that the walk spares is worked out when it is asked for.
	spare := *r
	spare.Unasked = Hashes
	for i := range spare.Series {
		if spare.Hash(i) != r.Hash(i) {
			t.Fatalf("%q: the hash is %x in the walk, and %x late", seen[i], r.Hash(i), spare.Hash(i))
		}
	}
}
