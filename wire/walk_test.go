package wire

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// Messages written by hand: a field is its tag and its value.

func msg(fields ...[]byte) []byte { return slices.Concat(fields...) }

func varint(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}

func fixed64(num protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(nil, num, protowire.Fixed64Type), math.Float64bits(v))
}

func sub(num protowire.Number, fields ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), msg(fields...))
}

func str(num protowire.Number, s string) []byte { return sub(num, []byte(s)) }

func raw(bytes ...byte) []byte { return bytes }

// long is a varint that is longer than it need be.
func long(v byte) []byte { return raw(v|0x80, 0x80, 0x80, 0x00) }

func label(name, value string) []byte { return sub(1, str(1, name), str(2, value)) }

// symbols are the symbols "" and ss.
func symbols(ss ...string) []byte {
	b := str(4, "")
	for _, s := range ss {
		b = append(b, str(4, s)...)
	}
	return b
}

// group is unknown fields of every wire type, in a group within a group.
var group = msg(
	raw(30<<3&0x7f|3|0x80, 1), varint(1, 2), fixed64(2, 3), str(3, "four"), raw(4<<3|5, 1, 2, 3, 4),
	raw(5<<3|3), varint(5, 5), raw(5<<3|4),
	raw(30<<3&0x7f|4|0x80, 1),
)

var unknown = msg(varint(99, 1), fixed64(99, 2), str(99, "three"), raw(0xa5, 1, 1, 2, 3, 4), group)

// trickyV1 are messages that senders have no reason to send but may.
func trickyV1() map[string][]byte {
	sample := sub(2, fixed64(1, 4.5), varint(2, 1000))
	return map[string][]byte{
		"nothing":                               nil,
		"empty series":                          sub(1),
		"labels behind samples":                 sub(1, sample, label("__name__", "up"), sample, label("job", "j")),
		"unsorted labels":                       sub(1, label("job", "j"), label("__name__", "up"), sample),
		"empty values and names":                sub(1, label("__name__", "up"), label("a", ""), label("", "b"), sub(1), sample),
		"a name twice":                          sub(1, label("a", "2"), label("a", "1"), label("Z", "")),
		"value before name":                     sub(1, sub(1, str(2, "up"), str(1, "__name__")), sample),
		"last name and value win":               sub(1, sub(1, str(2, "x"), str(1, "y"), str(1, "__name__"), str(2, "up"))),
		"unknown fields everywhere":             msg(unknown, sub(1, unknown, sub(1, unknown, str(1, "a"), unknown, str(2, "b")), sub(2, unknown, fixed64(1, 1), unknown), sub(3, unknown, sub(1, unknown)), sub(4, unknown, sub(8, unknown))), sub(3, unknown, str(2, "f"), unknown)),
		"an unknown field in place of the name": sub(1, sub(1, varint(3, 0), str(2, "b"))),
		"long lengths":                          sub(1, msg(raw(1<<3|2), long(6), str(1, "a"), str(2, "b")), msg(raw(1<<3|2), raw(9), raw(1<<3|2), long(1), raw('c'), str(2, "d"))),
		"long tags":                             msg(long(1<<3|2), raw(5), sub(1, str(1, "a")), sub(1, sub(1, str(1, "b"), long(2<<3|2), raw(1, 'c')))),
		"ten byte varints":                      sub(1, sub(2, msg(varint(2, math.MaxUint64)), fixed64(1, 1))),
		"bits above the 64th":                   sub(1, sub(2, raw(2<<3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f))),
		"last value and timestamp win":          sub(1, sub(2, varint(2, 1), fixed64(1, 1), varint(2, 3), fixed64(1, 4))),
		"a sample of nothing":                   sub(1, sub(2), sub(2, varint(2, 8)), sub(2, fixed64(1, 8))),
		"long strings":                          sub(1, label("__name__", strings.Repeat("n", 300)), label(strings.Repeat("o", 127), "v"), label(strings.Repeat("p", 128), strings.Repeat("q", 20_000))),
		"not UTF-8":                             sub(1, label("__name__", "a\xff"), label("b", "ü")),
		"counts of both kinds":                  sub(1, sub(4, fixed64(2, 2), varint(1, 7), fixed64(7, 3)), sub(4, varint(1, 7), varint(6, 7), fixed64(2, 2))),
		"buckets in pieces":                     sub(1, sub(4, varint(9, 1), sub(9, raw(2, 3)), varint(9, 4), fixed64(10, 1), sub(10, fixed64(1, 1)[1:]), fixed64(16, 2), sub(16), sub(8, varint(1, 3), varint(2, 2)), sub(8))),
		"unknown enums":                         msg(sub(1, sub(4, varint(14, 77))), sub(3, varint(1, 77), str(2, "f")), sub(3, varint(1, math.MaxUint64), str(2, "f"))),
		"exemplars":                             sub(1, sub(3, label("z", "1"), label("a", "2"), label("e", ""), fixed64(2, 3), varint(3, 4)), sub(3)),
		"metadata":                              msg(sub(3, varint(1, 1), str(2, "a"), str(4, "help"), str(5, "unit")), sub(3, str(2, "b")), sub(3, str(4, "of nothing"))),
	}
}

func TestWalkReadsV1(t *testing.T) {
	t.Parallel()
	for name, body := range trickyV1() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var req prompb.WriteRequest
			require.NoError(t, req.Unmarshal(body))
			var r Request
			require.NoError(t, r.Walk(body, V1, "tenant", accept))
			checkWalk(t, body, V1, toldByV1(&req), nil)
		})
	}
}

// trickyV2 are messages that senders have no reason to send but may.
func trickyV2() map[string][]byte {
	sample := sub(2, fixed64(1, 4.5), varint(2, 1000), varint(3, 900))
	names := symbols("__name__", "up", "job", "j", "\xff")
	return map[string][]byte{
		"nothing":                    nil,
		"symbols only":               names,
		"empty series":               msg(names, sub(5)),
		"symbols behind series":      msg(str(4, ""), sub(5, sub(1, raw(1, 2)), sample), str(4, "__name__"), sub(5, sub(1, raw(1, 2))), str(4, "up")),
		"references one by one":      msg(names, sub(5, varint(1, 3), varint(1, 4), sample, varint(1, 1), varint(1, 2))),
		"references in pieces":       msg(names, sub(5, sub(1, raw(1)), varint(1, 2), sub(1, raw(3, 4)), sub(1))),
		"long references":            msg(names, sub(5, sub(1, long(1), long(2)), raw(1<<3), long(3), varint(1, 1<<32|4))),
		"empty values and names":     msg(names, sub(5, sub(1, raw(1, 2, 3, 0, 0, 4)))),
		"a name twice":               msg(names, sub(5, sub(1, raw(3, 4, 3, 2, 1, 2)))),
		"not UTF-8":                  msg(names, sub(5, sub(1, raw(1, 2))), sub(5, sub(1, raw(1, 5))), sub(5, sub(1, raw(5, 0, 1, 2)))),
		"unknown fields everywhere":  msg(unknown, names, sub(5, unknown, sub(2, unknown), sub(3, unknown), sub(4, unknown), sub(5, unknown))),
		"exemplars":                  msg(names, sub(5, varint(1, 1), sub(4, sub(1, raw(3, 4, 1)), varint(1, 2), fixed64(2, 3), varint(3, 4)), varint(1, 2), sub(4, sub(1, raw(3, 0))))),
		"metadata in pieces":         msg(names, sub(5, sub(1, raw(1, 2)), sub(5, varint(1, 2), varint(3, 3)), sub(5, varint(4, 4), varint(1, 3)))),
		"metadata without name":      msg(names, sub(5, sub(1, raw(3, 4)), sub(5, varint(1, 2), varint(3, 3)))),
		"metadata that says nothing": msg(names, sub(5, sub(1, raw(1, 2)), sub(5, varint(1, 99)))),
		"histograms":                 msg(names, sub(5, sub(3, varint(1, 3), varint(15, 4), varint(17, 2)))),
	}
}

func TestWalkReadsV2(t *testing.T) {
	t.Parallel()
	for name, body := range trickyV2() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var req writev2.Request
			require.NoError(t, req.Unmarshal(body))
			want, err := toldByV2(&req)
			require.NoError(t, err)
			var r Request
			require.NoError(t, r.Walk(body, V2, "tenant", accept))
			checkWalk(t, body, V2, want, nil)
		})
	}
}

func TestWalkRefuses(t *testing.T) {
	t.Parallel()
	v2 := func(series ...[]byte) []byte { return msg(symbols("a", "b"), sub(5, series...)) }
	for _, c := range []struct {
		name string
		v    Version
		body []byte
		want string
	}{
		{"a tag that ends early", V1, raw(0x80), "request at byte 0: the tag of a field is cut short"},
		{"a tag of eleven bytes", V1, raw(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), "the tag of a field is cut short or longer than ten bytes"},
		{"field 0", V1, raw(2, 0), "a field has the number 0"},
		{"a field number of 30 bits", V1, msg(raw(0x8a, 0x80, 0x80, 0x80, 0x10), raw(0)), "a field has the number 536870913"},
		{"a field number that is 1 in 32 bits", V1, msg(protowire.AppendVarint(nil, 1<<35|1<<3|2), raw(0)), "a field has the number 4294967297"},
		{"a length that runs past the end", V1, raw(1<<3|2, 3, 1, 2), "request.timeseries at byte 0: the contents of field 1 are broken or run past the end"},
		{"a length without bytes", V1, raw(1<<3 | 2), "request.timeseries at byte 0"},
		{"a length of 2^63", V1, raw(1<<3|2, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1), "request.timeseries at byte 0"},
		{"a length of 2^64-1", V1, raw(1<<3|2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), "request.timeseries at byte 0"},
		{"an unknown field that ends early", V1, raw(7<<3|2, 1), "request at byte 0: the contents of field 7"},
		{"unknown fixed64 that ends early", V1, raw(7<<3|1, 1, 2, 3), "the message ends inside field 7"},
		{"a series as a number", V1, varint(1, 5), "request.timeseries at byte 0: the wire type is 0"},
		{"wire type 7", V1, raw(9<<3 | 7), "field 9 has the wire type 7, which does not exist"},
		{"a known field of wire type 6", V1, raw(1<<3 | 6), "field 1 has the wire type 6, which does not exist"},
		{"the end of a group", V1, raw(9<<3 | 4), "a group ends that did not start"},
		{"a group without end", V1, raw(9<<3|3, 8<<3|3, 8<<3|4), "cut short"},
		{"groups without end", V1, []byte(strings.Repeat("\x4b", 100_000)), "cut short"},
		{"a label inside a sample's length", V1, sub(1, label("a", "b"), raw(2<<3|2, 200)), "timeseries.samples at byte 10"},
		{"a label that ends early", V1, sub(1, raw(1<<3|2, 4, 1<<3|2, 3, 'a', 'b')), "label.name at byte 4"},
		{"a value that ends early", V1, sub(1, raw(1<<3|2, 6, 1<<3|2, 1, 'a', 2<<3|2, 9, 'b')), "label.value at byte 7"},
		{"a sample's value as a number", V1, sub(1, sub(2, varint(1, 1))), "sample.value at byte 4"},
		{"a sample's value that ends early", V1, sub(1, sub(2, raw(1<<3|1, 1, 2, 3))), "sample.value at byte 4"},
		{"a timestamp that runs out of its sample", V1, sub(1, raw(2<<3|2, 11), fixed64(1, 1), raw(2<<3, 0x80), sub(2)), "sample.timestamp at byte 13"},
		{"a timestamp of eleven bytes", V1, sub(1, sub(2, fixed64(1, 1), raw(2<<3), []byte(strings.Repeat("\x80", 10)), raw(1))), "sample.timestamp at byte 13"},
		{"an exemplar's label", V1, sub(1, sub(3, sub(1, varint(1, 1)))), "label.name at byte 6"},
		{"an exemplar's value", V1, sub(1, sub(3, raw(2<<3|1, 1))), "exemplar.value at byte 4"},
		{"metadata that ends early", V1, sub(3, raw(4<<3|2, 9)), "metadata.help at byte 2"},
		{"a histogram's count", V1, sub(1, sub(4, str(1, "x"))), "histogram.count_int at byte 4"},
		{"a span's offset", V1, sub(1, sub(4, sub(8, raw(1<<3, 0x80)))), "bucket_span.offset at byte 6"},
		{"packed deltas that run out of their field", V1, sub(1, sub(4, sub(9, raw(0x80)), varint(1, 1))), "histogram.negative_deltas at byte 4"},
		{"packed counts that are not whole", V1, sub(1, sub(4, sub(13, raw(1, 2, 3)), fixed64(2, 1))), "histogram.positive_counts at byte 4"},
		{"a message of 2.0", V1, v2(sub(1, raw(1, 2))), "it has the fields of remote write 2.0"},
		{"a message of 1.0", V2, sub(1, label("a", "b")), "it has the fields of remote write 1.0"},
		{"no symbols", V2, sub(5), "request.symbols at byte 0: the first symbol is not the empty string"},
		{"a first symbol", V2, msg(str(4, "a"), sub(5)), "request.symbols at byte 0: the first symbol is not the empty string"},
		{"an odd number of references", V2, v2(sub(1, raw(1, 2, 1))), "timeseries.labels_refs at byte 10: 3 references to symbols, which are not pairs"},
		{"a reference too far", V2, v2(sub(1, raw(1, 3))), "timeseries.labels_refs at byte 10: a reference to symbol 3, but there are only 3 symbols"},
		{"the largest reference", V2, v2(varint(1, math.MaxUint32), varint(1, 1)), "a reference to symbol 4294967295, but"},
		{"packed references that run out of their field", V2, v2(sub(1, raw(1, 0x82)), sub(2)), "timeseries.labels_refs at byte 12: the last reference is cut short"},
		{"a reference that ends early", V2, v2(raw(1<<3, 0x80)), "timeseries.labels_refs at byte 10"},
		{"references as doubles", V2, v2(fixed64(1, 1)), "timeseries.labels_refs at byte 10: the wire type is 1"},
		{"an exemplar's references", V2, v2(sub(4, sub(1, raw(1, 2, 1)))), "exemplar.labels_refs at byte 12: 3 references"},
		{"an exemplar's reference", V2, v2(sub(4, sub(1, raw(9, 2)))), "exemplar.labels_refs at byte 12: a reference to symbol 9"},
		{"an exemplar's packed references", V2, v2(sub(4, sub(1, raw(0x89)))), "exemplar.labels_refs at byte 14: the last reference is cut short"},
		{"help of no symbol", V2, v2(sub(1, raw(1, 2)), sub(5, varint(3, 3))), "timeseries.metadata at byte 10: a reference to symbol 3"},
		{"unit of no symbol", V2, v2(sub(1, raw(1, 2)), sub(5, varint(4, 4))), "timeseries.metadata at byte 10: a reference to symbol 4"},
		{"a start timestamp as text", V2, v2(sub(2, str(3, "x"))), "sample.start_timestamp at byte 12: the wire type is 2"},
		{"a symbol as a number", V2, varint(4, 1), "request.symbols at byte 0: the wire type is 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var r Request
			err := r.Walk(c.body, c.v, "tenant", accept)
			var ue *UserError
			require.ErrorAs(t, err, &ue)
			require.Equal(t, Invalid, ue.Kind)
			require.Equal(t, "err-malformed-request", ue.ID)
			require.Contains(t, ue.Msg, "malformed remote write request: ")
			require.Contains(t, ue.Msg, c.want)
		})
	}
}

// Every message cut off anywhere is refused or, where a field ends, read
// without what is missing; and never anything worse.
func TestWalkCutOff(t *testing.T) {
	t.Parallel()
	for v, body := range map[Version][]byte{V1: bodyV1(t), V2: bodyV2(t)} {
		var r Request
		for n := range body {
			cut := slices.Clip(slices.Clone(body[:n]))
			if err := r.Walk(cut, v, "tenant", accept); err != nil {
				require.Equal(t, Invalid, KindOf(err), "%v", err)
			}
		}
	}
}

// bodyV1 is all of requestsV1 in one message.
func bodyV1(tb testing.TB) (body []byte) {
	for _, req := range requestsV1() {
		b, err := req.Marshal()
		require.NoError(tb, err)
		body = append(body, b...)
	}
	return body
}

// bodyV2 is the series of all of requestsV2 in one message.
func bodyV2(tb testing.TB) []byte {
	var all writev2.Request
	for _, req := range requestsV2() {
		all.Symbols, all.Timeseries = req.Symbols, append(all.Timeseries, req.Timeseries...)
	}
	body, err := all.Marshal()
	require.NoError(tb, err)
	return body
}

func TestWalkUnknownVersion(t *testing.T) {
	t.Parallel()
	var r Request
	require.ErrorContains(t, r.Walk(nil, 3, "tenant", accept), "unknown version 3")
}

// A series that check refuses leaves nothing behind.
func TestWalkRefusedSeries(t *testing.T) {
	t.Parallel()
	for v, body := range map[Version][]byte{V1: bodyV1(t), V2: bodyV2(t)} {
		var all, none, odd Request
		require.NoError(t, all.Walk(body, v, "tenant", accept))
		require.NoError(t, none.Walk(body, v, "tenant", func(*Series, []Label) bool { return false }))
		require.Empty(t, none.Series)
		require.Empty(t, none.Samples)
		require.Empty(t, none.Histograms)
		require.Empty(t, none.Exemplars)
		require.Empty(t, none.ExemplarLabels)
		for _, h := range none.Histograms[:cap(none.Histograms)] {
			require.Zero(t, h, "a refused histogram is still held")
		}

		n := 0
		require.NoError(t, odd.Walk(body, v, "tenant", func(*Series, []Label) bool { n++; return n%2 == 1 }))
		var want []string
		for i, s := range seriesOf(told(&all)) {
			if i%2 == 0 {
				want = append(want, s)
			}
		}
		require.Equal(t, want, seriesOf(told(&odd)))
	}
}

// seriesOf is the part of each series in a transcript.
func seriesOf(told string) []string {
	series, _, _ := strings.Cut(told, "metadata ")
	return strings.Split(series, "series ")[1:]
}

// check may throw away some of a series.
func TestWalkShortenedSeries(t *testing.T) {
	t.Parallel()
	sample := func(ts uint64) []byte { return sub(2, varint(2, ts)) }
	histogram := func(ts uint64) []byte { return sub(4, varint(15, ts)) }
	exemplar := func(ts uint64) []byte { return sub(3, label("a", "b"), varint(3, ts)) }
	series := sub(1, label("a", "b"), sample(1), sample(2), sample(3), histogram(1), histogram(2), exemplar(1), exemplar(2))
	var r Request
	calls := 0
	require.NoError(t, r.Walk(msg(series, series), V1, "tenant", func(s *Series, _ []Label) bool {
		calls++
		require.Equal(t, 3, s.Samples.Len())
		require.Len(t, r.Samples, int(s.Samples.Hi))
		lo := int(s.Samples.Lo)
		r.Samples = slices.Delete(r.Samples, lo, lo+2)
		s.Samples.Hi -= 2
		r.Histograms = r.Histograms[:len(r.Histograms)-1]
		s.Histograms.Hi--
		lo = int(s.Exemplars.Lo)
		r.Exemplars = slices.Delete(r.Exemplars, lo, lo+1)
		s.Exemplars.Hi--
		return true
	}))
	require.Equal(t, 2, calls)
	got := seriesOf(told(&r))
	require.Equal(t, got[0], got[1])
	require.Equal(t, `[{"a" "b"}]
  sample 3 0
  histogram 1 hint 0 schema 0 zero 0 0 count 0 sum 0 + [] [] - [] [] custom []
  exemplar [{"a" "b"}] 2 0 true
`, got[0])
	require.Zero(t, r.Histograms[:cap(r.Histograms)][2], "a dropped histogram is still held")
}

// In 2.0 few bytes can stand for labels without end. They are shown to check,
// which can refuse them in words of its own, but no more is done for them.
func TestWalkTooLongLabels(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 100_000)
	body := msg(symbols("b", big+"y", big+"z", "v"), sub(5, sub(1, raw(3, 4, 2, 4, 1, 4))))
	var r Request
	require.NoError(t, r.Walk(body, V2, "tenant", func(_ *Series, ls []Label) bool {
		require.Len(t, ls, 3)
		return false
	}))
	require.ErrorContains(t, r.Walk(body, V2, "tenant", accept), "the labels have more than 131072 bytes in all")
}

func TestWalkTooManyLabels(t *testing.T) {
	t.Parallel()
	long := symbols(strings.Repeat("x", 50_000)+"y", strings.Repeat("x", 50_000)+"z", "v")
	series := sub(5, sub(1, raw(1, 3, 2, 3)))
	exemplar := sub(4, sub(1, raw(2, 3, 1, 3)))
	for name, body := range map[string][]byte{
		"series":    msg(long, []byte(strings.Repeat(string(series), 10_000))),
		"exemplars": msg(long, sub(5, []byte(strings.Repeat(string(exemplar), 10_000)))),
	} {
		var r Request
		err := r.Walk(body, V2, "tenant", func(*Series, []Label) bool { return false })
		require.ErrorContains(t, err, "the labels of all series have more than", name)
	}
}

func TestWalkMetadataFamily(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ        writev2.Metadata_MetricType
		name, want string
	}{
		{writev2.Metadata_METRIC_TYPE_COUNTER, "requests_total", "requests_total"},
		{writev2.Metadata_METRIC_TYPE_GAUGE, "queue_count", "queue_count"},
		{writev2.Metadata_METRIC_TYPE_HISTOGRAM, "latency_bucket", "latency"},
		{writev2.Metadata_METRIC_TYPE_HISTOGRAM, "latency_count", "latency"},
		{writev2.Metadata_METRIC_TYPE_HISTOGRAM, "latency_sum", "latency"},
		{writev2.Metadata_METRIC_TYPE_HISTOGRAM, "latency", "latency"},
		{writev2.Metadata_METRIC_TYPE_HISTOGRAM, "_sum", "_sum"},
		{writev2.Metadata_METRIC_TYPE_GAUGEHISTOGRAM, "sizes_gcount", "sizes"},
		{writev2.Metadata_METRIC_TYPE_SUMMARY, "pause_sum", "pause"},
		{writev2.Metadata_METRIC_TYPE_SUMMARY, "pause_bucket", "pause_bucket"},
	} {
		req := writev2.Request{Symbols: []string{"", "__name__", c.name}, Timeseries: []writev2.TimeSeries{{
			LabelsRefs: []uint32{1, 2}, Metadata: writev2.Metadata{Type: c.typ},
		}}}
		body, err := req.Marshal()
		require.NoError(t, err)
		var r Request
		require.NoError(t, r.Walk(body, V2, "tenant", accept))
		require.Len(t, r.Metadata, 1)
		require.Equal(t, c.want, r.Metadata[0].Family, "%v", c)
	}
}

// Metadata that comes with every series of a family is kept once.
func TestWalkMetadataOnce(t *testing.T) {
	t.Parallel()
	gauge := sub(5, varint(1, 2), varint(3, 3))
	up := sub(1, raw(1, 2))
	body := msg(symbols("__name__", "up", "help"), sub(5, up, gauge), sub(5, up, gauge), sub(5, up), sub(5, up, gauge), sub(5, up, sub(5, varint(1, 1))))
	var r Request
	require.NoError(t, r.Walk(body, V2, "tenant", accept))
	require.Equal(t, []Metadata{
		{Type: model.MetricTypeGauge, Family: "up", Help: "help"},
		{Type: model.MetricTypeCounter, Family: "up"},
	}, r.Metadata)
}

// A Request tells the same however often and for whatever it was used before.
func TestRequestReuse(t *testing.T) {
	t.Parallel()
	v1, v2 := bodyV1(t), bodyV2(t)
	var r1, r2, r Request
	require.NoError(t, r1.Walk(v1, V1, "tenant", accept))
	require.NoError(t, r2.Walk(v2, V2, "tenant", accept))
	for range 3 {
		require.NoError(t, r.Walk(v1, V1, "tenant", accept))
		require.Equal(t, told(&r1), told(&r))
		require.NoError(t, r.Walk(v2, V2, "tenant", accept))
		require.Equal(t, told(&r2), told(&r))
		require.Error(t, r.Walk(v2[:len(v2)-1], V2, "tenant", accept))
		r.Reset()
	}
}

func TestRequestReset(t *testing.T) {
	t.Parallel()
	var r Request
	require.NoError(t, r.Walk(bodyV1(t), V1, "tenant", accept))
	histograms := r.Histograms
	require.NotEmpty(t, histograms)
	r.Reset()
	require.Empty(t, r.Series)
	require.Empty(t, r.Metadata)
	require.NotZero(t, cap(r.Samples), "memory is kept")
	for _, h := range histograms {
		require.Zero(t, h, "a histogram is still held")
	}

	many := msg(label("a", "b"), []byte(strings.Repeat(string(sub(2)), maxRecycled/16+1)))
	require.NoError(t, r.Walk(sub(1, many), V1, "tenant", accept))
	require.Len(t, r.Samples, maxRecycled/16+1)
	r.Reset()
	require.Zero(t, cap(r.Samples), "the memory of a giant is not kept")
	require.NotZero(t, cap(r.Series))
}

func TestWalkAllocatesNothing(t *testing.T) {
	for v, body := range map[Version][]byte{V1: benchV1(t), V2: benchV2(t)} {
		var r Request
		var buf []Label
		walk := func() {
			if err := r.Walk(body, v, "tenant", accept); err != nil {
				t.Fatal(err)
			}
			for i := range r.Series {
				buf = r.Labels(i, buf)
			}
			r.Reset()
		}
		walk()
		require.Zero(t, testing.AllocsPerRun(10, walk), "version %d", v)
	}
}

// Two bytes are a valid histogram, but hundreds of bytes in memory.
func TestTooManyHistograms(t *testing.T) {
	for v, field := range map[Version]protowire.Number{V1: 4, V2: 3} {
		series := bytes.Repeat(sub(field), 100_000)
		body := sub(1, series)
		if v == V2 {
			body = append(str(4, ""), sub(5, series)...)
		}
		var r Request
		err := r.Walk(body, v, "t", func(*Series, []Label) bool { return true })
		require.ErrorContains(t, err, "histograms are too many for a request of", "version %d", v)
		require.Less(t, len(r.Histograms), 20_000)
	}
}
