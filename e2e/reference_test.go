package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// reference is what a tenant's data would be in a Prometheus of its own:
// upstream's storage, engine and API in this process, which know nothing of
// tenants, blocks in buckets or other series. All its samples stay in one head.
type reference struct {
	endpoint
	db *tsdb.DB
}

func newReference(t testing.TB) *reference {
	t.Helper()
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = (12 * time.Hour).Milliseconds()
	opts.EnableExemplarStorage, opts.MaxExemplars = true, 20_000
	logger := slog.New(slog.DiscardHandler)
	db, err := tsdb.Open(t.TempDir(), logger, nil, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	db.DisableCompactions()
	r := &reference{endpoint: newEndpoint(t, ""), db: db}
	server := httptest.NewServer(upstreamAPI(sortedStorage{db}, logger))
	r.url = server.URL
	t.Cleanup(func() {
		server.Close()
		if err := db.Close(); err != nil {
			t.Errorf("close the reference: %v", err)
		}
	})
	return r
}

// upstreamAPI is Prometheus' query API over a storage.
func upstreamAPI(db sortedStorage, logger *slog.Logger) http.Handler {
	engine := promql.NewEngine(promql.EngineOpts{
		Logger:                   logger,
		MaxSamples:               50_000_000,
		Timeout:                  patience,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		EnableAtModifier:         true,
		EnableNegativeOffset:     true,
		Parser:                   promParser,
	})
	api := v1.NewAPI(engine, db, nil, nil, db, nil, nil, nil,
		func() config.Config { return config.Config{} }, nil, v1.GlobalURLOptions{},
		func(f http.HandlerFunc) http.HandlerFunc { return f },
		nil, "", false, false, 0, logger, nil,
		0, 100, 1<<20, // remote read: samples, at once, bytes of a frame
		false, regexp.MustCompile("x"), nil, &v1.PrometheusVersion{}, nil, nil, nil, nil, nil,
		false, nil, false, false, false, false, 5*time.Minute, false, false, nil, nil,
		v1.OpenAPIOptions{}, promParser)
	r := route.New()
	api.Register(r.WithPrefix("/api/v1"))
	return r
}

// sortedStorage gives series in the order of their labels, as Hearth does where
// it merges them from several places, and not in that of their creation.
type sortedStorage struct{ *tsdb.DB }

func (s sortedStorage) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.DB.Querier(mint, maxt)
	return sortedQuerier{q}, err
}

type sortedQuerier struct{ storage.Querier }

func (q sortedQuerier) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(ctx, true, h, ms...)
}

// append stores what a sender sends, as a receiver of remote write does: of
// each series floats, then histograms, then exemplars. It returns how many
// samples were refused.
func (r *reference) append(list ...series) (refused int) {
	r.t.Helper()
	app := r.db.AppenderV2(context.Background())
	for _, s := range list {
		var ref storage.SeriesRef
		add := func(t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram) {
			got, err := app.Append(ref, s.labels, 0, t, v, h, fh, storage.AOptions{})
			switch {
			case err == nil:
				ref = got
			case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrTooOldSample),
				errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
				refused++
			default:
				r.t.Fatalf("append to the reference %s: %v", s.labels, err)
			}
		}
		for _, p := range s.points {
			if p.h == nil && p.fh == nil {
				add(p.t, p.v, nil, nil)
			}
		}
		for _, p := range s.points {
			if p.h != nil || p.fh != nil {
				add(p.t, 0, copyOf(p.h), copyOf(p.fh))
			}
		}
	}
	if err := app.Commit(); err != nil {
		r.t.Fatal(err)
	}
	r.appendExemplars(list)
	return refused
}

// copyOf copies a histogram, because a head keeps what it is given.
func copyOf[H interface {
	comparable
	Copy() H
}](h H) (none H) {
	if h == none {
		return none
	}
	return h.Copy()
}

func (r *reference) appendExemplars(list []series) {
	r.t.Helper()
	app := r.db.Appender(context.Background())
	for _, s := range list {
		ref, _ := app.(storage.GetRef).GetRef(s.labels, s.labels.Hash())
		for _, e := range s.exemplars {
			_, err := app.AppendExemplar(ref, s.labels, exemplar.Exemplar{Labels: e.Labels, Value: e.Value, Ts: e.Ts, HasTs: true})
			if err != nil && !errors.Is(err, storage.ErrOutOfOrderExemplar) && !errors.Is(err, storage.ErrDuplicateExemplar) {
				r.t.Fatalf("append an exemplar to the reference %s: %v", s.labels, err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		r.t.Fatal(err)
	}
}

// question is one that the query API is asked.
type question struct {
	path   string
	params url.Values
}

func (q question) String() string {
	text, err := url.QueryUnescape(q.params.Encode())
	if err != nil {
		text = q.params.Encode()
	}
	return fmt.Sprintf("%s?%q", q.path, text)
}

// put asks a question and returns the answer, status included, in a form in
// which equal answers are equal texts.
func (e *endpoint) put(tenant string, q question) (string, error) {
	status, body, err := e.do(http.MethodGet, e.prefix+"/api/v1/"+q.path+"?"+q.params.Encode(), tenant, nil, nil)
	if err != nil {
		return "", err
	}
	ordered := strings.HasPrefix(q.params.Get("query"), "sort")
	text, err := canonical([]byte(body), ordered, e.strip)
	return fmt.Sprintf("%d\n%s", status, text), err
}

// canonical writes an answer of the query API so that equal ones are equal
// texts: series in the order of their labels, unless their order is part of
// the answer; warnings in any order; each number and text as it was written;
// and nothing of the label strip.
func canonical(body []byte, ordered bool, strip string) (string, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var env map[string]any
	if err := d.Decode(&env); err != nil {
		return "", fmt.Errorf("%w in the answer %q", err, body[:min(len(body), 1000)])
	}
	if strip != "" {
		env["data"] = without(env["data"], strip)
	}
	for _, notes := range []string{"warnings", "infos"} {
		list, _ := env[notes].([]any)
		sortByText(list)
	}
	if !ordered {
		series, _ := env["data"].([]any)
		if data, ok := env["data"].(map[string]any); ok {
			series, _ = data["result"].([]any)
		}
		if len(series) > 0 {
			if _, ok := series[0].(map[string]any); ok { // names and values come sorted
				sortByText(series)
			}
		}
	}
	text, err := json.MarshalIndent(env, "", " ")
	return string(text), err
}

// without is JSON without a key, and without the text of its name in lists.
func without(v any, name string) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, name)
		for k := range v {
			v[k] = without(v[k], name)
		}
	case []any:
		v = slices.DeleteFunc(v, func(e any) bool { return e == name })
		for i := range v {
			v[i] = without(v[i], name)
		}
		return v
	}
	return v
}

func sortByText(list []any) {
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(asJSON(a), asJSON(b)) })
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was JSON
	}
	return string(text)
}

// firstDifference shows where two texts part, with some lines around.
func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	at := 0
	for at < len(w) && at < len(g) && w[at] == g[at] {
		at++
	}
	part := func(lines []string) string {
		return strings.Join(lines[max(0, min(at-5, len(lines))):min(at+10, len(lines))], "\n")
	}
	return fmt.Sprintf("line %d; want\n%s\ngot\n%s", at, part(w), part(g))
}

// sameStored says how what was read by remote read differs, "" if it does not.
func sameStored(want, got stored) string {
	for name, points := range want {
		for at, p := range points {
			have, ok := got[name][at]
			if !ok {
				return fmt.Sprintf("%s has nothing at %d (%d samples in all, want %d), want %s", name, at, len(got[name]), len(points), p)
			}
			if d := have.differs(p); d != "" {
				return fmt.Sprintf("%s at %d: %s", name, at, d)
			}
		}
	}
	for name, points := range got {
		if want[name] == nil {
			return fmt.Sprintf("%s should not be there", name)
		}
		for at, p := range points {
			if _, ok := want[name][at]; !ok {
				return fmt.Sprintf("%s should have nothing at %d, but has %s", name, at, p)
			}
		}
	}
	return ""
}

// endOfTime is behind every sample.
const endOfTime = math.MaxInt64
