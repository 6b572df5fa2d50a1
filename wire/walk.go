package wire

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unsafe"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
)

// Version is a version of the remote write protocol.
type Version uint8

// The versions of remote write.
const (
	V1 Version = 1 + iota // 1.0, the message prometheus.WriteRequest
	V2                    // 2.0, the message io.prometheus.write.v2.Request
)

// Label is a name and a value. Both share memory with the body of the request.
type Label struct{ Name, Value string }

// Range is the part [Lo, Hi) of one of a Request's slices.
type Range struct{ Lo, Hi uint32 }

// Len is the number of elements in the range.
func (r Range) Len() int { return int(r.Hi - r.Lo) }

// Sample is a float at a time in milliseconds.
type Sample struct {
	T int64
	V float64
}

// Histogram is a native histogram at a time in milliseconds. Exactly one of H
// and FH is set, and nothing else points to it.
type Histogram struct {
	T  int64
	H  *histogram.Histogram
	FH *histogram.FloatHistogram
}

// Exemplar is an exemplar of a series. T, in milliseconds, means something only
// if HasTS is set.
type Exemplar struct {
	Labels Range // in Request.ExemplarLabels; sorted by name (unless over MaxLabelBytes), none empty
	T      int64
	V      float64
	HasTS  bool
}

// Metadata describes a metric family. Its strings share memory with the body.
type Metadata struct {
	Type               model.MetricType
	Family, Help, Unit string
}

// Series is one series of a request: where its samples, histograms and
// exemplars are in the Request's slices of these names, and what it is called.
type Series struct {
	Key Key // unless it was Unasked

	Samples, Histograms, Exemplars Range

	// ValidUTF8 says whether every name and value is valid UTF-8. It is known
	// when check is called, and costs far less here than label by label.
	ValidUTF8 bool

	hash    uint64 // see Request.Hash
	without bool   // Request.without is left out of its labels
	lo, hi  uint32 // its message in the body
}

// In remote write 2.0 a few bytes can refer to one long string many times.
// These bound the work that can be asked for so.
const (
	// MaxLabelBytes is what the names and values of one series may have
	// together. It is far above any sensible limit of a tenant's.
	MaxLabelBytes = 128 << 10

	// What those of all series and exemplars may have: some bytes in any case,
	// and more for each byte of the body.
	freeLabelBytes    = 64 << 20
	labelBytesPerByte = 64
)

// A histogram in memory is far larger than its least message, two bytes. One
// that says anything has a count, a sum and a time, so a request that has more
// than one for each bytesPerHistogram of its body, and a few, is refused: its
// memory would be out of proportion.
const (
	freeHistograms    = 1024
	bytesPerHistogram = 16
)

// Request is a decoded remote-write request. Its strings and its series refer
// to the body, so the body must not be changed or used again before Reset.
//
// A Request is for one goroutine at a time; once Walk has returned, any number
// may read it, and call Labels. The zero value is ready. After Reset it can be
// used again and keeps its memory for that.
type Request struct {
	Version        Version
	Series         []Series
	Samples        []Sample
	Histograms     []Histogram
	Exemplars      []Exemplar
	ExemplarLabels []Label
	Metadata       []Metadata

	// Altered says that what is kept of a series differs from its bytes. Walk
	// sets it where check has shortened something; who changes more sets it too.
	Altered bool

	// Unasked are names that nobody will ask for, so that Walk spares them. It
	// is set before Walk; Reset leaves it as it is.
	Unasked Names

	// OnlyKeys says that the series have no labels here, see ReadKeyed.
	OnlyKeys bool

	// Compressed is the body as it came, in snappy, if whoever decompressed it
	// still has it. Who takes it away, and leaves nil, may keep it, and like
	// everybody else does not change it.
	Compressed []byte

	body    []byte
	leftOut int      // series that check refused
	without string   // the label of LeaveOut
	symbols []string // of 2.0
	tenant  tenantHash
	check   func(s *Series, labels []Label) bool

	// Of the series being walked.
	labels             labelSet
	labelBytes         int // of this and all series and exemplars before
	firstExemplarLabel int
	refs               []uint32 // of the series or the exemplar, 2.0
	canonical          []byte
	hist               histogramParts

	notUTF8      []uint32     // symbols that are not valid UTF-8, ascending
	lastMetadata metadataRefs // of Metadata's last entry, 2.0
}

// Walk decodes a request. For every series it collects the labels: those with
// an empty value are left out, for to Prometheus they are absent, and the rest
// is sorted by name; a name that occurs twice is left in for check to refuse.
// It appends the series' samples, histograms and exemplars and then calls
// check. If check returns false, the series and all that belongs to it are
// taken back; otherwise it is named and stays.
//
// While check runs, s and what belongs to it are the last in their slices.
// check may shorten them: compact r.Samples[s.Samples.Lo:] in place, reslice
// r.Samples, and set s.Samples.Hi; the same for histograms and exemplars. It
// keeps and changes neither s nor labels otherwise, but may call LeaveOut.
//
// An error means that the body is not the message that it should be (Invalid,
// err-malformed-request); what the Request then holds is of no use. check may
// have been called before that.
func (r *Request) Walk(body []byte, v Version, tenant string, check func(s *Series, labels []Label) bool) error {
	r.Reset()
	if uint64(len(body)) > math.MaxUint32 {
		return malformed("request", math.MaxUint32, "the body is longer than 4 GiB")
	}
	r.body, r.Version, r.tenant, r.check = body, v, hashTenant(tenant), check
	var err error
	switch v {
	case V1:
		err = r.walkV1()
	case V2:
		err = r.walkV2()
	default:
		err = fmt.Errorf("walk a remote write request: unknown version %d", v)
	}
	r.check = nil
	return err
}

// begin adds a series whose message is body[lo:hi]. The pointer is good until
// the next series begins.
func (r *Request) begin(lo, hi int) *Series {
	r.labels.reset()
	r.firstExemplarLabel = len(r.ExemplarLabels)
	n, h, x := uint32(len(r.Samples)), uint32(len(r.Histograms)), uint32(len(r.Exemplars))
	r.Series = append(r.Series, Series{
		Samples: Range{n, n}, Histograms: Range{h, h}, Exemplars: Range{x, x},
		lo: uint32(lo), hi: uint32(hi),
	})
	return &r.Series[len(r.Series)-1]
}

// finish asks check about the series whose fields have all been read, and
// names it or takes it back.
func (r *Request) finish(s *Series) (kept bool, err error) {
	s.Samples.Hi, s.Exemplars.Hi = uint32(len(r.Samples)), uint32(len(r.Exemplars))
	histograms := len(r.Histograms)
	s.Histograms.Hi = uint32(histograms)
	came := [3]uint32{s.Samples.Hi, s.Histograms.Hi, s.Exemplars.Hi}

	ls := &r.labels
	if err := r.countLabels(ls.bytes); err != nil {
		return false, err
	}
	// Labels that are too many to be sorted in reasonable time are shown to
	// check as they came, for it to refuse them with a reason of its own.
	tooLong := ls.bytes > MaxLabelBytes
	if !ls.sorted && !tooLong {
		sortLabels(ls.list)
		ls.plain = false
	}
	kept = r.check(s, ls.list)
	if !kept {
		r.takeBack(s)
	}
	if n := len(r.Histograms); n < histograms {
		clear(r.Histograms[n:histograms])
	}
	r.Altered = r.Altered || kept && came != [3]uint32{s.Samples.Hi, s.Histograms.Hi, s.Exemplars.Hi}
	switch {
	case !kept:
		r.leftOut++
		return false, nil
	case tooLong:
		return false, malformed("timeseries.labels", int(s.lo), "the labels have more than %d bytes in all", MaxLabelBytes)
	case r.Unasked == Keys|Hashes:
	case ls.plain && ls.cutHi == 0:
		r.name(s, r.body[ls.lo:ls.hi])
	case ls.plain:
		r.canonical = append(append(r.canonical[:0], r.body[ls.lo:ls.cutLo]...), r.body[ls.cutHi:ls.hi]...)
		r.name(s, r.canonical)
	default:
		r.canonical = appendCanonical(r.canonical[:0], ls.list, ls.bytes)
		r.name(s, r.canonical)
	}
	return true, nil
}

func (r *Request) name(s *Series, canonical []byte) {
	if r.Unasked&Keys == 0 {
		s.Key = r.tenant.keyOf(canonical)
	}
	if r.Unasked&Hashes == 0 {
		s.hash = r.tenant.hashOf(canonical)
	}
}

// Hash is what series i is placed by, see HashOf. It is there already, unless
// it was Unasked.
func (r *Request) Hash(i int) uint64 {
	if r.Unasked&Hashes == 0 {
		return r.Series[i].hash
	}
	var few [1024]byte
	canonical := few[:0]
	for _, l := range r.Labels(i, nil) {
		canonical = appendCanonicalLabel(canonical, l.Name, l.Value)
	}
	return r.tenant.hashOf(canonical)
}

// countLabels counts the bytes of labels before more is done with them.
func (r *Request) countLabels(n int) error {
	r.labelBytes += n
	if limit := freeLabelBytes + labelBytesPerByte*len(r.body); r.labelBytes > limit {
		return malformed("request", 0, "the labels of all series have more than %d bytes, too many for a request of %d bytes", limit, len(r.body))
	}
	return nil
}

// addHistogram reads a histogram, whose bytes are b[i:], into the request.
func (r *Request) addHistogram(b []byte, i int, m *message) error {
	if limit := freeHistograms + len(r.body)/bytesPerHistogram; len(r.Histograms) >= limit {
		return malformed("timeseries.histograms", i, "more than %d histograms are too many for a request of %d bytes", limit, len(r.body))
	}
	h, err := r.hist.read(b, i, m)
	r.Histograms = append(r.Histograms, h)
	return err
}

// takeBack removes the last series with all that belongs to it.
func (r *Request) takeBack(s *Series) {
	r.Samples = r.Samples[:s.Samples.Lo]
	r.Histograms = r.Histograms[:s.Histograms.Lo]
	r.Exemplars = r.Exemplars[:s.Exemplars.Lo]
	clear(r.ExemplarLabels[r.firstExemplarLabel:])
	r.ExemplarLabels = r.ExemplarLabels[:r.firstExemplarLabel]
	r.Series = r.Series[:len(r.Series)-1]
}

// Labels decodes the labels of r.Series[i] once more from the body, as check
// saw them, into buf's memory if they fit. They share memory with the body.
func (r *Request) Labels(i int, buf []Label) []Label {
	s := &r.Series[i]
	ls := labelSet{list: buf[:0], sorted: true}
	// Walk has read the same bytes without error.
	var err error
	if r.Version == V1 {
		err = ls.readV1(r.body[:s.hi], int(s.lo))
	} else {
		err = ls.readV2(r.body[:s.hi], int(s.lo), r.symbols)
	}
	if err != nil {
		panic("BUG: a walked series cannot be read again: " + err.Error())
	}
	if !ls.sorted {
		sortLabels(ls.list)
	}
	if s.without {
		lo, hi := find(ls.list, r.without)
		return slices.Delete(ls.list, lo, hi)
	}
	return ls.list
}

// Reset forgets everything and keeps the memory for the next request, unless
// this one was so large that it would not be needed again soon.
func (r *Request) Reset() {
	r.Version, r.body, r.check, r.labelBytes = 0, nil, nil, 0
	r.Altered, r.OnlyKeys, r.leftOut, r.without, r.Compressed = false, false, 0, "", nil
	r.Series = recycle(r.Series)
	r.Samples = recycle(r.Samples)
	clear(r.Histograms)
	r.Histograms = recycle(r.Histograms)
	r.Exemplars = recycle(r.Exemplars)
	// Strings that stay behind would keep the body alive.
	clear(r.ExemplarLabels)
	r.ExemplarLabels = recycle(r.ExemplarLabels)
	clear(r.Metadata)
	r.Metadata = recycle(r.Metadata)
	clear(r.symbols)
	r.symbols = recycle(r.symbols)
	r.labels.forget()
	r.notUTF8 = recycle(r.notUTF8)
	r.refs = recycle(r.refs)
	r.canonical = recycle(r.canonical)
	r.hist.recycle()
	r.lastMetadata = metadataRefs{}
}

// maxRecycled is the memory in bytes that one slice of a Request may bring
// from one request to the next: enough for some ten thousand series.
const maxRecycled = 2 << 20

func recycle[T any](s []T) []T {
	var t T
	if uintptr(cap(s))*unsafe.Sizeof(t) > maxRecycled {
		return nil
	}
	return s[:0]
}

// labelSet collects the labels of one series.
type labelSet struct {
	list   []Label
	sorted bool
	bytes  int // of the names and values in list

	// plain says that body[lo:hi] is these labels in the order they came and in
	// canonical form (hash.go). It can only be so in 1.0.
	plain  bool
	lo, hi int

	// If plain, body[cutLo:cutHi] is what LeaveOut has left out of it. cutHi is
	// 0 if that is nothing.
	cutLo, cutHi int
}

func (ls *labelSet) reset() {
	ls.list, ls.sorted, ls.bytes = ls.list[:0], true, 0
	ls.plain, ls.lo, ls.hi, ls.cutHi = true, 0, 0, 0
}

// framed notes that the label just read is body[lo:hi], in canonical form or not.
func (ls *labelSet) framed(lo, hi int, canonical bool) {
	if ls.hi == 0 {
		ls.lo = lo
	}
	ls.plain = ls.plain && canonical && (ls.hi == 0 || ls.hi == lo)
	ls.hi = hi
}

// forget drops the strings, also those of longer series before the last one.
func (ls *labelSet) forget() {
	ls.reset()
	if cap(ls.list) > 1024 {
		ls.list = nil
	}
	clear(ls.list[:cap(ls.list)])
}

// add takes a label in, unless its value is empty.
func (ls *labelSet) add(name, value string) {
	if value == "" {
		return
	}
	if n := len(ls.list); n > 0 && !inOrder(ls.list[n-1].Name, name) {
		ls.sorted = false
	}
	ls.bytes += len(name) + len(value)
	ls.list = append(ls.list, Label{name, value})
}

// inOrder is a <= b. Neighbours mostly differ in their first byte.
func inOrder(a, b string) bool {
	if len(a) > 0 && len(b) > 0 && a[0] != b[0] {
		return a[0] < b[0]
	}
	return a <= b
}

// sortLabels sorts by name, and keeps the order of equal names.
func sortLabels(ls []Label) {
	slices.SortStableFunc(ls, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
}
