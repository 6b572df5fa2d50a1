package wire

import (
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
)

// Pushed says what became of a write request: how much of it is stored
// durably, and what was refused and why.
type Pushed struct {
	Samples    int // floats
	Histograms int // native histograms
	Exemplars  int
	Refused    Refusals

	Series int // active series that the tenant has where the request was stored
}

// Refusals counts what a request had to leave out, by the id of the reason,
// and keeps the first error in full. The zero value is empty.
type Refusals struct {
	First  *UserError
	Counts []RefusalCount // in order of first appearance; few
}

// RefusalCount is how often one reason was met.
type RefusalCount struct {
	ID    string
	Count int
}

// Add counts n refusals for the reason id. Only the first refusal of all is
// written out, so describe is called at most once for a request.
func (r *Refusals) Add(id string, n int, describe func() *UserError) {
	if n == 0 {
		return
	}
	if r.First == nil {
		r.First = describe()
	}
	for i := range r.Counts {
		if r.Counts[i].ID == id {
			r.Counts[i].Count += n
			return
		}
	}
	r.Counts = append(r.Counts, RefusalCount{id, n})
}

// Merge adds what another step refused after this one.
func (r *Refusals) Merge(other *Refusals) {
	for _, c := range other.Counts {
		r.Add(c.ID, c.Count, func() *UserError { return other.First })
	}
}

// Total is the number of refused samples, histograms, exemplars and metadata.
func (r *Refusals) Total() int {
	n := 0
	for _, c := range r.Counts {
		n += c.Count
	}
	return n
}

// maxSeriesString is how much of a series' labels an error text shows, in bytes.
const maxSeriesString = 1024

// SeriesString writes labels as PromQL does, for error texts: cut off where it
// grows too long, and with what is not UTF-8 escaped.
func SeriesString(ls []Label) string {
	var name string
	var b strings.Builder
	for _, l := range ls {
		if l.Name == "__name__" {
			name = l.Value
			continue
		}
		if b.Len() > maxSeriesString {
			b.WriteString(", ...")
			break
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quoteUnlessPlain(clip(l.Name)))
		b.WriteByte('=')
		b.WriteString(strconv.Quote(clip(l.Value)))
	}
	switch {
	case name == "":
		return "{" + b.String() + "}"
	case b.Len() == 0:
		return quoteUnlessPlain(clip(name))
	default:
		return quoteUnlessPlain(clip(name)) + "{" + b.String() + "}"
	}
}

// clip shortens a name or value for a text.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

func quoteUnlessPlain(s string) string {
	if model.LegacyValidation.IsValidMetricName(s) {
		return s
	}
	return strconv.Quote(s)
}
