package ruler

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/gorilla/mux"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is what is around rulers: a bucket, each tenant's data in a database of
// Prometheus, and an Alertmanager that writes down what it is told.
type world struct {
	tb      testing.TB
	bucket  bucket.Bucket
	engine  *promql.Engine
	limits  tenant.Limits
	logger  *slog.Logger
	changes *fakeStore
	status  sync.Map // by tenant, of those that are not active

	mu      sync.Mutex
	data    map[tenant.ID]*teststorage.TestStorage
	away    bool // the data cannot be read
	told    []told
	members []ring.Member
	rulers  map[string]*Ruler
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	cfg := bucket.DefaultConfig()
	cfg.Filesystem.Dir = tb.TempDir()
	b, err := bucket.New(cfg, tb.TempDir(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(tb, err)
	return &world{
		tb: tb, bucket: b, engine: promqltest.NewTestEngine(tb, false, 5*time.Minute, 1e6), limits: tenant.DefaultLimits(),
		logger: slog.New(slog.DiscardHandler), changes: &fakeStore{},
		data: map[tenant.ID]*teststorage.TestStorage{}, rulers: map[string]*Ruler{},
	}
}

func (w *world) db(id tenant.ID) *teststorage.TestStorage {
	w.mu.Lock()
	defer w.mu.Unlock()
	db := w.data[id]
	if db == nil {
		db = teststorage.New(w.tb, func(o *tsdb.Options) { o.OutOfOrderTimeWindow = time.Hour.Milliseconds() })
		w.data[id] = db
	}
	return db
}

// write stores a sample of now.
func (w *world) write(id tenant.ID, series string, v float64) {
	w.tb.Helper()
	ls, err := parser.NewParser(parser.Options{}).ParseMetric(series)
	require.NoError(w.tb, err)
	app := w.db(id).Appender(context.Background())
	_, err = app.Append(0, ls, time.Now().UnixMilli(), v)
	require.NoError(w.tb, err)
	require.NoError(w.tb, app.Commit())
}

// Append implements Writes.
func (w *world) Append(ctx context.Context, id tenant.ID, body []byte) (wire.Pushed, error) {
	data, err := snappy.Decode(nil, body)
	if err != nil {
		return wire.Pushed{}, err
	}
	var req prompb.WriteRequest
	if err := req.Unmarshal(data); err != nil {
		return wire.Pushed{}, err
	}
	app := w.db(id).Appender(ctx)
	var pushed wire.Pushed
	b := labels.NewScratchBuilder(0)
	for _, s := range req.Timeseries {
		for _, p := range s.Samples {
			_, err := app.Append(0, s.ToLabels(&b, nil), p.Timestamp, p.Value)
			switch {
			case errors.Is(err, storage.ErrDuplicateSampleForTimestamp), errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrTooOldSample):
				pushed.Refused.Add("err-test", 1, func() *wire.UserError { return wire.Errorf(wire.Invalid, "err-test", "%s", err) })
			case err != nil:
				return pushed, err
			}
		}
		for _, h := range s.Histograms {
			if _, err := app.AppendHistogram(0, s.ToLabels(&b, nil), h.Timestamp, nil, h.ToFloatHistogram()); err != nil {
				return pushed, err
			}
		}
	}
	return pushed, app.Commit()
}

// Querier implements storage.Queryable: like ours it looks for the tenant when
// something is selected.
func (w *world) Querier(minT, maxT int64) (storage.Querier, error) {
	return &tenantQuerier{storage.NoopQuerier(), w, minT, maxT}, nil
}

type tenantQuerier struct {
	storage.Querier
	w          *world
	minT, maxT int64
}

func (q *tenantQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	id, err := tenant.FromContext(ctx)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	q.w.mu.Lock()
	away := q.w.away
	q.w.mu.Unlock()
	if away {
		return storage.ErrSeriesSet(promql.ErrStorage{Err: errors.New("away")})
	}
	from, err := q.w.db(id).Querier(q.minT, q.maxT)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	defer from.Close()
	// Copied, so that nothing is read after the querier is closed.
	set := from.Select(ctx, true, hints, ms...)
	var all []storage.Series
	for set.Next() {
		s, err := storage.ExpandSamplesWithoutReplacingNaNs(set.At().Iterator(nil), nil)
		if err != nil {
			return storage.ErrSeriesSet(err)
		}
		all = append(all, storage.NewListSeries(set.At().Labels(), s))
	}
	return &listSet{all: all, err: set.Err()}
}

type listSet struct {
	all []storage.Series
	cur storage.Series
	err error
}

func (s *listSet) Next() bool {
	if len(s.all) == 0 {
		return false
	}
	s.cur, s.all = s.all[0], s.all[1:]
	return true
}
func (s *listSet) At() storage.Series                { return s.cur }
func (s *listSet) Err() error                        { return s.err }
func (s *listSet) Warnings() annotations.Annotations { return nil }

// Notify implements Notifier.
func (w *world) Notify(_ context.Context, _ tenant.ID, alerts []*notifier.Alert) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range alerts {
		w.told = append(w.told, told{a, a.Resolved()})
	}
	return nil
}

// told is an alert as it was when it was told.
type told struct {
	*notifier.Alert
	resolved bool
}

func (w *world) takeTold() []told {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := w.told
	w.told = nil
	return told
}

func (w *world) setAway(away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = away
}

func (w *world) parts() Parts {
	return Parts{
		Evaluated: func(tenant.ID) {},
		Bucket:    w.bucket, Engine: w.engine, Data: w, Parser: parser.NewParser(parser.Options{}),
		Writes: w, Alerts: w, Limits: func(tenant.ID) *tenant.Limits { return &w.limits },
		Status: func(id tenant.ID) tenant.Status {
			if s, ok := w.status.Load(id); ok {
				return s.(tenant.Status)
			}
			return tenant.Active
		},
	}
}

// start starts a ruler that is alone.
func (w *world) start() *Ruler {
	w.tb.Helper()
	return w.startWith(w.parts())
}

// join starts one more ruler of a cluster.
func (w *world) join(name string) *Ruler {
	w.tb.Helper()
	p := w.parts()
	p.Cluster = &Cluster{
		Self: name, Changes: w.changes, Logger: w.logger,
		Rulers: func() []ring.Member {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Clone(w.members)
		},
		Call: func(m ring.Member) (wire.RulerServer, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if r := w.rulers[m.ID]; r != nil {
				return r, nil
			}
			return nil, errors.New("gone")
		},
	}
	r := w.startWith(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rulers[name] = r
	w.members = append(w.members, ring.Member{ID: name})
	return r
}

// leave stops a ruler.
func (w *world) leave(name string) {
	w.tb.Helper()
	w.mu.Lock()
	r := w.rulers[name]
	delete(w.rulers, name)
	w.members = slices.DeleteFunc(slices.Clone(w.members), func(m ring.Member) bool { return m.ID == name })
	w.mu.Unlock()
	require.NoError(w.tb, services.StopAndAwaitTerminated(context.Background(), r))
}

func (w *world) startWith(p Parts) *Ruler {
	w.tb.Helper()
	r, err := New(DefaultConfig(), p, w.logger, prometheus.NewRegistry())
	require.NoError(w.tb, err)
	require.NoError(w.tb, services.StartAndAwaitRunning(context.Background(), r))
	w.tb.Cleanup(func() { require.NoError(w.tb, services.StopAndAwaitTerminated(context.Background(), r)) })
	return r
}

// ask sends a request as a tenant.
func ask(tb testing.TB, r *Ruler, id tenant.ID, method, path, body string) (int, string) {
	tb.Helper()
	router := mux.NewRouter()
	r.RegisterRoutes(router, router)
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	rec := httptest.NewRecorder()
	router.ServeHTTP(rec, req.WithContext(tenant.WithID(req.Context(), id)))
	return rec.Code, rec.Body.String()
}

func post(tb testing.TB, r *Ruler, id tenant.ID, namespace, group string) {
	tb.Helper()
	code, body := ask(tb, r, id, http.MethodPost, "/prometheus/config/v1/rules/"+namespace, group)
	require.Equal(tb, http.StatusAccepted, code, body)
}

// fakeStore is a ChangeStore of one process.
type fakeStore struct {
	mu       sync.Mutex
	value    changes
	watchers []chan changes
}

func (s *fakeStore) CAS(_ context.Context, _ string, f func(any) (any, bool, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in any
	if s.value != nil {
		in = s.value
	}
	out, _, err := f(in)
	if err != nil {
		return err
	}
	s.value = out.(changes)
	for _, c := range s.watchers {
		c <- s.value
	}
	return nil
}

func (s *fakeStore) WatchKey(ctx context.Context, _ string, f func(any) bool) {
	c := make(chan changes, 100)
	s.mu.Lock()
	s.watchers = append(s.watchers, c)
	s.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-c:
			f(v)
		}
	}
}

func asID(s string) tenant.ID { return tenant.ID(s) }

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}
