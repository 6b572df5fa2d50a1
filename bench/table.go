package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is everything one run has measured. The machine is part of it: a
// figure without its machine says nothing.
type Report struct {
	Machine string    `json:"machine"`
	How     string    `json:"how"` // what a reader must know to repeat it
	Started time.Time `json:"started"`
	Results []Result  `json:"results"` // one for each target; ratios are to the first
}

// Result is what one target showed.
type Result struct {
	Target    string    `json:"target"`
	Version   string    `json:"version,omitempty"`
	Measures  []Measure `json:"measures"`
	Latencies []Latency `json:"latencies,omitempty"`
	Notes     []string  `json:"notes,omitempty"` // what makes a figure doubtful
}

// Measure is one figure of one target.
type Measure struct {
	Figure string  `json:"figure"`
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Value  float64 `json:"value"`
	Detail bool    `json:"detail,omitempty"` // explains the one before
}

func newReport(b *Bench) *Report {
	version := "1.0"
	if b.V2 {
		version = "2.0"
	}
	r := &Report{Machine: machine(), Started: time.Now().UTC()}
	r.How = fmt.Sprintf("how: scale %v, remote write %s, memory read %v after a load, medians of %d runs of a query, each target alone",
		b.Scale, version, b.Settle, b.Runs)
	for _, t := range b.Targets {
		r.Results = append(r.Results, Result{Target: t.Name, Measures: []Measure{}})
	}
	return r
}

func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// find returns the value of a measure.
func (r *Result) find(figure, name string) (float64, bool) {
	for _, m := range r.Measures {
		if m.Figure == figure && m.Name == name {
			return m.Value, true
		}
	}
	return 0, false
}

// WriteTable writes a row for each measure and a column for each target, with
// the ratio to the first target behind the others' values.
func (r *Report) WriteTable(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s\n%s\n%s\n\n", r.Machine, r.How, r.Started.Format(time.RFC3339))
	fmt.Fprint(w, "\t")
	for _, res := range r.Results {
		fmt.Fprintf(w, "\t%s", res.Target)
	}
	fmt.Fprintln(w)
	figure := ""
	for _, m := range r.rows() {
		if m.Figure != figure {
			figure = m.Figure
			fmt.Fprintf(w, "%s\t%s\n", figure, strings.Repeat("\t", len(r.Results)))
		}
		indent := "  "
		if m.Detail {
			indent = "    "
		}
		fmt.Fprintf(w, "%s%s\t%s%s\n", indent, m.Name, m.Unit, r.cells(m))
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, res := range r.Results {
		for _, n := range res.Notes {
			if _, err := fmt.Fprintf(out, "note: %s: %s\n", res.Target, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// cells are the values of one row.
func (r *Report) cells(row Measure) string {
	var b strings.Builder
	first, measured := r.Results[0].find(row.Figure, row.Name)
	for i := range r.Results {
		v, ok := r.Results[i].find(row.Figure, row.Name)
		switch {
		case !ok:
			b.WriteString("\t–")
		case i == 0 || !measured || first == 0:
			b.WriteString("\t" + digits(v))
		default:
			b.WriteString("\t" + digits(v) + " (" + digits(v/first) + "×)")
		}
	}
	return b.String()
}

// rows are the measures of all targets, each once, in the order of figures
// and then of first appearance.
func (r *Report) rows() []Measure {
	var out []Measure
	seen := map[string]bool{}
	for _, f := range figures {
		for _, res := range r.Results {
			for _, m := range res.Measures {
				if key := m.Figure + "\xff" + m.Name; m.Figure == f.name && !seen[key] {
					seen[key] = true
					out = append(out, m)
				}
			}
		}
	}
	return out
}

// digits writes a value with three significant digits and no exponent.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// WriteJSON writes the whole report, single queries included, to a file.
func (r *Report) WriteJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
