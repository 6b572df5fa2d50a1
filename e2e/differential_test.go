package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"
	"github.com/stretchr/testify/require"
)

// TestDifferential: random series are written to Hearth and to a Prometheus
// storage, and random queries get equal answers from both, wherever Hearth has
// the samples by then.
func TestDifferential(t *testing.T) {
	t.Parallel()
	rnd := newRand(t, uint64(time.Now().UnixNano()))
	queries, span := 150, time.Hour
	if long {
		queries, span = 1000, 3*time.Hour
	}
	end := time.Now().Truncate(time.Second).UnixMilli()
	d := &differential{
		t:       t,
		h:       startHearth(t, "ingester.block_range=20m", "limits.tenants.own={own_head: true}"),
		ref:     newReference(t),
		history: newHistory(rnd, end-span.Milliseconds(), end),
		queries: queries,
	}
	middle := d.start + (end-d.start)*2/3
	d.send(d.requests(d.start, middle), true)
	d.compare("from memory")
	d.h.flush()
	d.compare("from local blocks")
	d.send(d.requests(middle, end), false)
	d.compare("from local blocks and memory")
	d.h.stop()
	d.h.start()
	d.compare("after a restart")
	d.h.flush()
	d.h.forgetRecent()
	d.compare("from the bucket alone")
}

type differential struct {
	*history
	t       *testing.T
	h       *hearth
	ref     *reference
	queries int // asked each time
}

var differentialTenants = []string{"pooled", "own"}

// send writes requests to both tenants and to the reference. All refuse the
// same samples, as long as none are in blocks: those a head does not know.
func (d *differential) send(requests [][]series, allInMemory bool) {
	d.t.Helper()
	refusedInAll := 0
	for _, list := range requests {
		refused := d.ref.append(list...)
		refusedInAll += refused
		for i, id := range differentialTenants {
			status, answer, err := d.h.send(protocols[i], id, list...)
			require.NoError(d.t, err)
			switch {
			case status == protocols[i].success:
				require.False(d.t, allInMemory && refused > 0, "%d samples should have been refused", refused)
			case allInMemory:
				require.Equal(d.t, http.StatusBadRequest, status, answer)
				require.Contains(d.t, answer, fmt.Sprintf("%d err-sample-duplicate-timestamp;", refused))
			default:
				require.Equal(d.t, http.StatusBadRequest, status, answer)
				require.Contains(d.t, answer, "err-sample-duplicate-timestamp;")
			}
		}
	}
	require.Positive(d.t, refusedInAll)
}

// compare asks for all samples, for names, and many queries.
func (d *differential) compare(when string) {
	d.t.Helper()
	began := time.Now()
	d.compareSamples(when)
	g := &grammar{Rand: d.Rand, start: d.start, end: d.end}
	failed, notes := 0, 0
	for range d.queries {
		q := g.question()
		for _, id := range differentialTenants {
			got := d.same(when, id, q)
			if !strings.HasPrefix(got, "200") {
				failed++
			}
			if strings.Contains(got, `"warnings"`) || strings.Contains(got, `"infos"`) {
				notes++
			}
		}
	}
	for _, q := range d.nameQuestions() {
		for _, id := range differentialTenants {
			d.same(when, id, q)
		}
	}
	require.Less(d.t, failed, d.queries, "at least half of the queries can be evaluated")
	d.t.Logf("%s: %d queries have equal answers, of them %d errors and %d with annotations (%s)", when, 2*d.queries, failed, notes, time.Since(began).Round(time.Millisecond))
}

// question is a random query, at one time or over a range.
func (g *grammar) question() question {
	x := g.expression()
	at := g.start - 300_000 + g.Int64N(g.end-g.start+600_000)
	if g.often(5) {
		return question{"query", url.Values{"query": {x}, "time": {seconds(at)}}}
	}
	from := g.start - 300_000 + g.Int64N(g.end-g.start)
	return question{"query_range", rangeParams(x, from, from+g.Int64N(g.end-from), 1000*(15+g.Int64N(300)))}
}

// same asks Hearth and the reference, and returns the answer.
func (d *differential) same(when, tenant string, q question) string {
	d.t.Helper()
	got, err := d.h.put(tenant, q)
	require.NoError(d.t, err)
	want, err := d.ref.put("", q)
	require.NoError(d.t, err)
	got, want = manyToMany.ReplaceAllString(got, "$1"), manyToMany.ReplaceAllString(want, "$1")
	if got == want {
		return got
	}
	almost := withoutNotes(d.t, want, ofChunks) == withoutNotes(d.t, got, ofChunks)
	if addsUp.MatchString(q.params.Get("query")) {
		almost = nearlyEqual(withoutNotes(d.t, want, ofOrder), withoutNotes(d.t, got, ofOrder))
	}
	if !almost {
		d.t.Fatalf("%s, %s, %s: %s", when, tenant, q, firstDifference(want, got))
	}
	return got
}

// manyToMany is an error that names those of several offenders that come first.
var manyToMany = regexp.MustCompile(`(found duplicate series for the match group).*`)

// addsUp matches what adds up several series. Float addition depends on their
// order, and so does which of several odd neighbours a warning names. The order
// of a head is that in which the series were created: after a cut it is another.
var addsUp = regexp.MustCompile(`\b(sum|avg|stddev|stdvar)\b`)

// Annotations that do not follow from the samples alone: where a chunk begins,
// there is no hint that a counter went on; and an addition ends with the first
// kind of samples that do not add up.
var (
	ofChunks = regexp.MustCompile(`conflicting counter resets`)
	ofOrder  = regexp.MustCompile(`conflicting counter resets|mix of histograms|during aggregation`)
)

// withoutNotes leaves out some annotations.
func withoutNotes(t testing.TB, answer string, some *regexp.Regexp) string {
	status, text, _ := strings.Cut(answer, "\n")
	var env map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &env))
	for _, kind := range []string{"warnings", "infos"} {
		notes, _ := env[kind].([]any)
		notes = slices.DeleteFunc(notes, func(n any) bool { return some.MatchString(n.(string)) })
		if env[kind] = notes; len(notes) == 0 {
			delete(env, kind)
		}
	}
	return status + "\n" + asJSON(env)
}

var number = regexp.MustCompile(`"([-+.e0-9]+)"`)

// nearlyEqual says that two answers differ in nothing but the last digits of
// numbers. Sums may be near zero, their terms are around a thousand.
func nearlyEqual(want, got string) bool {
	if number.ReplaceAllString(want, "") != number.ReplaceAllString(got, "") {
		return false
	}
	w, g := number.FindAllStringSubmatch(want, -1), number.FindAllStringSubmatch(got, -1)
	for i := range w {
		if w[i][1] == g[i][1] {
			continue
		}
		a, errA := strconv.ParseFloat(w[i][1], 64)
		b, errB := strconv.ParseFloat(g[i][1], 64)
		if errA != nil || errB != nil || math.Abs(a-b) > 1e-12*max(1000, math.Abs(a), math.Abs(b)) {
			return false
		}
	}
	return true
}

// nameQuestions ask for series and names.
func (d *differential) nameQuestions() (out []question) {
	from, to := seconds(d.start-time.Hour.Milliseconds()), seconds(d.end+time.Hour.Milliseconds())
	g := &grammar{Rand: d.Rand, start: d.start, end: d.end}
	for range 10 {
		params := url.Values{"start": {from}, "end": {to}, "match[]": {g.selector()}}
		if g.often(3) {
			params.Add("match[]", g.selector())
		}
		for _, path := range []string{"series", "labels", "label/__name__/values", "label/instance/values", "label/U__label_2e_with_2e_dots/values"} {
			out = append(out, question{path, params})
		}
	}
	return append(out, question{"labels", nil}, question{"label/le/values", nil}, question{"labels", url.Values{"limit": {"2"}}})
}

// compareSamples reads everything, as samples and as chunks.
func (d *differential) compareSamples(when string) {
	d.t.Helper()
	for range 4 {
		from := d.start + d.Int64N(d.end-d.start)
		to := from + d.Int64N(d.end-d.start)
		want, err := d.ref.read("", from, to, everything())
		require.NoError(d.t, err)
		for _, id := range differentialTenants {
			got, err := d.h.read(id, from, to, everything())
			require.NoError(d.t, err)
			require.Empty(d.t, sameStored(want.alike(), got.alike()), "%s, %s", when, id)
		}
	}
	want, err := d.ref.read("", 0, endOfTime, everything())
	require.NoError(d.t, err)
	for _, id := range differentialTenants {
		got, err := d.h.readChunks(id, 0, endOfTime, everything())
		require.NoError(d.t, err)
		require.Empty(d.t, sameStored(want.alike(), got.alike()), "%s, %s, as chunks", when, id)
	}
}

// alike leaves out series without samples, of which a chunk was near, and makes
// stale markers equal: in a series of histograms a head writes them
// as an empty histogram where it has seen the one before, and as a float where
// it has not. They mean the same.
func (out stored) alike() stored {
	for name, points := range out {
		if len(points) == 0 {
			delete(out, name)
		}
		for at, p := range points {
			if p.h != nil && value.IsStaleNaN(p.h.Sum) || p.fh != nil && value.IsStaleNaN(p.fh.Sum) {
				points[at] = point{t: at, v: stale}
			}
		}
	}
	return out
}
