package querier

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/mux"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/tenant"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const alice, bob = tenant.ID("alice"), tenant.ID("bob")

// part is a time range of a database that stands for recent or for stored
// data. It counts what is open.
type part struct {
	mint, maxt int64
	dbs        map[tenant.ID]*tsdb.DB
	held       []ulid.ULID
	meta       map[string][]metadata.Metadata
	ownMeta    map[tenant.ID]map[string][]metadata.Metadata // of those that have other

	mu    sync.Mutex
	open  int
	opens int
	skip  []ulid.ULID
	asked [2]int64  // of the last open
	err   error     // what opening fails with
	whose tenant.ID // that fails only; "": all
	fail  error     // what reading fails with
	deep  error     // what iterating over samples fails with
	block chan struct{}
}

func (p *part) enter(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (*tsdb.DB, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.block != nil {
		block := p.block
		p.mu.Unlock()
		select {
		case <-block:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	p.skip, p.asked = skip, [2]int64{mint, maxt}
	if p.err != nil && (p.whose == "" || p.whose == id) {
		return nil, p.err
	}
	db := p.dbs[id]
	if db == nil || maxt < p.mint || mint > p.maxt {
		return nil, nil
	}
	p.open++
	p.opens++
	return db, nil
}

func (p *part) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
}

func (p *part) samples(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.Querier, error) {
	db, err := p.enter(ctx, id, mint, maxt, skip)
	if err != nil || db == nil {
		return storage.NoopQuerier(), err
	}
	q, err := db.Querier(max(mint, p.mint), min(maxt, p.maxt))
	return &partQuerier{Querier: q, p: p}, err
}

func (p *part) chunks(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.ChunkQuerier, error) {
	db, err := p.enter(ctx, id, mint, maxt, skip)
	if err != nil || db == nil {
		return storage.NoopChunkedQuerier(), err
	}
	q, err := db.ChunkQuerier(max(mint, p.mint), min(maxt, p.maxt))
	return &partChunkQuerier{ChunkQuerier: q, p: p}, err
}

// within keeps a TSDB from reading what the hints ask for and the part does
// not have.
func (p *part) within(h *storage.SelectHints) *storage.SelectHints {
	if h == nil {
		return nil
	}
	n := *h
	n.Start, n.End = max(n.Start, p.mint), min(n.End, p.maxt)
	return &n
}

type partQuerier struct {
	storage.Querier
	p *part
}

func (q *partQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	if q.p.fail != nil {
		return storage.ErrSeriesSet(q.p.fail)
	}
	set := q.Querier.Select(ctx, sorted, q.p.within(h), ms...)
	if q.p.deep != nil {
		return brokenSet{set, q.p.deep}
	}
	return set
}

func (q *partQuerier) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) (n []string, w annotations.Annotations, err error) {
	if q.p.fail != nil {
		return nil, nil, q.p.fail
	}
	return q.Querier.LabelNames(ctx, h, ms...)
}

func (q *partQuerier) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	if q.p.fail != nil {
		return nil, nil, q.p.fail
	}
	return q.Querier.LabelValues(ctx, name, h, ms...)
}

func (q *partQuerier) Close() error { q.p.leave(); return q.Querier.Close() }

type partChunkQuerier struct {
	storage.ChunkQuerier
	p *part
}

func (q *partChunkQuerier) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	if q.p.fail != nil {
		return storage.ErrChunkSeriesSet(q.p.fail)
	}
	return q.ChunkQuerier.Select(ctx, sorted, q.p.within(h), ms...)
}

func (q *partChunkQuerier) Close() error { q.p.leave(); return q.ChunkQuerier.Close() }

type fakeRecent struct{ part }

func (r *fakeRecent) Querier(ctx context.Context, id tenant.ID, mint, maxt int64) (storage.Querier, []ulid.ULID, error) {
	q, err := r.samples(ctx, id, mint, maxt, nil)
	return q, r.held, err
}

func (r *fakeRecent) ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64) (storage.ChunkQuerier, []ulid.ULID, error) {
	q, err := r.chunks(ctx, id, mint, maxt, nil)
	return q, r.held, err
}

func (r *fakeRecent) ExemplarQuerier(ctx context.Context, id tenant.ID) (storage.ExemplarQuerier, error) {
	if r.err != nil {
		return nil, r.err
	}
	return r.dbs[id].ExemplarQuerier(ctx)
}

func (r *fakeRecent) Metadata(_ context.Context, id tenant.ID, metric string, _, _ int) (map[string][]metadata.Metadata, error) {
	if r.err != nil {
		return nil, r.err
	}
	meta, ok := r.ownMeta[id]
	if !ok {
		meta = r.meta
	}
	if metric == "" {
		return meta, nil
	}
	out := map[string][]metadata.Metadata{}
	if m, ok := meta[metric]; ok {
		out[metric] = m
	}
	return out, nil
}

type fakeStored struct{ part }

func (s *fakeStored) Querier(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.Querier, error) {
	return s.samples(ctx, id, mint, maxt, skip)
}

func (s *fakeStored) ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.ChunkQuerier, error) {
	return s.chunks(ctx, id, mint, maxt, skip)
}

// house is a Querier over two parts of a database that overlap, and its API.
type house struct {
	*Querier
	recent *fakeRecent
	stored *fakeStored
	limits tenant.Limits                // of all tenants, changed between requests
	own    map[tenant.ID]*tenant.Limits // of those that have others
	reg    *prometheus.Registry
	log    *lockedBuffer
	router *mux.Router
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newHouse divides the databases: stored data ends after cut, recent data
// begins before it.
func newHouse(t testing.TB, dbs map[tenant.ID]*tsdb.DB, cut, overlap int64, change ...func(*Config)) *house {
	t.Helper()
	h := &house{
		recent: &fakeRecent{part{mint: cut - overlap, maxt: math.MaxInt64, dbs: dbs}},
		stored: &fakeStored{part{mint: math.MinInt64, maxt: cut + overlap, dbs: dbs}},
		limits: tenant.DefaultLimits(),
		reg:    prometheus.NewPedanticRegistry(),
		log:    &lockedBuffer{},
		router: mux.NewRouter(),
	}
	cfg := DefaultConfig()
	cfg.Version = "test"
	for _, c := range change {
		c(&cfg)
	}
	limits := func(id tenant.ID) *tenant.Limits {
		if l := h.own[id]; l != nil {
			return l
		}
		return &h.limits
	}
	var err error
	h.Querier, err = New(cfg, h.recent, h.stored, limits, slog.New(slog.NewTextHandler(h.log, nil)), h.reg)
	require.NoError(t, err)
	h.RegisterRoutes(h.router)
	return h
}

// request is one call of the API.
type request struct {
	method string // GET without
	path   string // below /api/v1
	form   url.Values
	header http.Header
}

func (r request) String() string { return fmt.Sprintf("%s %s?%s", r.method, r.path, r.form.Encode()) }

func (r request) to(prefix string) *http.Request {
	var req *http.Request
	if r.method == http.MethodPost {
		req = httptest.NewRequest(r.method, prefix+r.path, strings.NewReader(r.form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		method := r.method
		if method == "" {
			method = http.MethodGet
		}
		req = httptest.NewRequest(method, prefix+r.path+"?"+r.form.Encode(), http.NoBody)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	return req
}

func (h *house) do(id tenant.ID, r request) *httptest.ResponseRecorder {
	req := r.to("/prometheus/api/v1")
	if id != "" {
		req = req.WithContext(tenant.WithID(req.Context(), id))
	}
	w := httptest.NewRecorder()
	h.router.ServeHTTP(w, req)
	return w
}

type envelope struct {
	Status    string          `json:"status"`
	ErrorType string          `json:"errorType"`
	Error     string          `json:"error"`
	Data      json.RawMessage `json:"data"`
	Warnings  []string        `json:"warnings"`
	Infos     []string        `json:"infos"`
}

func decode(t testing.TB, w *httptest.ResponseRecorder) envelope {
	t.Helper()
	var e envelope
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e), "body: %s", w.Body)
	return e
}

// allClosed checks that no query has left anything open or running.
func (h *house) allClosed(t testing.TB) {
	t.Helper()
	for name, p := range map[string]*part{"recent": &h.recent.part, "stored": &h.stored.part} {
		p.mu.Lock()
		require.Zero(t, p.open, "open in %s", name)
		p.mu.Unlock()
	}
	waiting, running := h.queue.load()
	require.Zero(t, waiting+running)
	require.Empty(t, h.queue.lines)
}

func params(kv ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		v.Add(kv[i], kv[i+1])
	}
	return v
}

const (
	minute = int64(60_000)
	hour   = 60 * minute
	// t0 is when test data begins, 2023-11-14T22:00:00Z.
	t0 = int64(1_699_999_200_000)
)

func newDB(t testing.TB) *tsdb.DB {
	t.Helper()
	s := teststorage.New(t)
	return s.DB
}

// fill writes two hours of series, sorted by their labels, so that a head
// alone returns them in the order of a merge.
func fill(t testing.TB, db *tsdb.DB, tag string) {
	t.Helper()
	fillAll(t, db, func(_ string, l labels.Labels) labels.Labels { return l }, tag)
}

// fillAll does so for several tags, and changes the labels of each.
func fillAll(t testing.TB, db *tsdb.DB, change func(tag string, l labels.Labels) labels.Labels, tags ...string) {
	t.Helper()
	for ts := t0; ts <= t0+2*hour; ts += minute / 2 {
		app := db.Appender(t.Context())
		for _, tag := range tags {
			step := (ts - t0) / (minute / 2)
			for i, l := range seriesOf(tag) {
				appendStep(t, app, i, l, change(tag, l), ts, step)
			}
		}
		require.NoError(t, app.Commit())
	}
	app := db.Appender(t.Context())
	for _, tag := range tags {
		for i := range int64(5) {
			_, err := app.AppendExemplar(0, change(tag, labels.FromStrings("__name__", "requests_total", "instance", "0", "job", "a", "tenant", tag)), exemplar.Exemplar{
				Labels: labels.FromStrings("trace_id", fmt.Sprint(tag, i)), Value: float64(i), Ts: t0 + hour + i*minute, HasTs: true,
			})
			require.NoError(t, err)
		}
	}
	require.NoError(t, app.Commit())
}

func seriesOf(tag string) []labels.Labels {
	series := []labels.Labels{
		labels.FromStrings("__name__", "hist", "job", "a", "tenant", tag),
		labels.FromStrings("__name__", "native", "job", "a", "tenant", tag),
		labels.FromStrings("__name__", "native_float", "job", "a", "tenant", tag),
	}
	for _, job := range []string{"a", "b", "c"} {
		for i := range 4 {
			series = append(series, labels.FromStrings("__name__", "requests_total", "instance", fmt.Sprint(i), "job", job, "tenant", tag))
		}
	}
	series = append(series,
		labels.FromStrings("__name__", "up", "job", "a", "tenant", tag),
		labels.FromStrings("__name__", "up", "job", "b", "tenant", tag),
		labels.FromStrings("__name__", "with.dot", "weird name/ü", "x", "tenant", tag),
	)
	slices.SortFunc(series, labels.Compare)
	return series
}

func appendStep(t testing.TB, app storage.Appender, i int, l, as labels.Labels, ts, step int64) {
	t.Helper()
	var err error
	switch l.Get("__name__") {
	case "native":
		_, err = app.AppendHistogram(0, as, ts, tsdbutil.GenerateTestHistogram(step), nil)
	case "native_float":
		_, err = app.AppendHistogram(0, as, ts, nil, tsdbutil.GenerateTestFloatHistogram(step))
	case "requests_total":
		_, err = app.Append(0, as, ts, float64((step%100)*int64(i+1)))
	case "up":
		if step%50 < 45 || l.Get("job") == "a" {
			_, err = app.Append(0, as, ts, float64(step%2))
		}
	default:
		_, err = app.Append(0, as, ts, math.Sin(float64(step)))
	}
	require.NoError(t, err)
}

func secs(ms int64) string { return fmt.Sprintf("%d.%03d", ms/1000, ms%1000) }

type brokenSet struct {
	storage.SeriesSet
	err error
}

func (s brokenSet) At() storage.Series { return brokenSeries{s.SeriesSet.At(), s.err} }

type brokenSeries struct {
	storage.Series
	err error
}

func (s brokenSeries) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	return brokenIterator{chunkenc.NewNopIterator(), s.err}
}

type brokenIterator struct {
	chunkenc.Iterator
	err error
}

func (it brokenIterator) Err() error { return it.err }
