package distributor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/gorilla/mux"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// world is some distributors that share a store, in a time of their own, and
// what they have stored.
type world struct {
	t      *testing.T
	cfg    Config
	limits tenant.LimitsConfig
	store  HAStore // nil: they know nothing of each other
	nodes  []*haNode

	mu      sync.Mutex
	samples map[string][]int64 // times by series
	from    map[string]int     // samples by replica, which their value tells
	down    error              // what storing answers
}

type haNode struct {
	*Distributor
	reg    *prometheus.Registry
	server http.Handler
}

// inWorld runs a test in a world of n distributors whose clocks are off by
// skews, if any.
func inWorld(t *testing.T, n int, test func(w *world), skews ...time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, cfg: DefaultConfig(), limits: tenant.LimitsConfig{Defaults: tenant.DefaultLimits()}, samples: map[string][]int64{}, from: map[string]int{}}
		w.limits.Defaults.HADedupe = true
		if n > 1 {
			w.store = &memoryStore{values: map[string][]byte{}, changed: make(chan struct{})}
		}
		for i := range n {
			skew := time.Duration(0)
			if i < len(skews) {
				skew = skews[i]
			}
			w.nodes = append(w.nodes, w.start(skew))
		}
		defer func() {
			for _, d := range w.nodes {
				d.stop(t)
			}
		}()
		test(w)
	})
}

func (w *world) start(skew time.Duration) *haNode {
	d := &haNode{reg: prometheus.NewRegistry()}
	var err error
	d.Distributor, err = New(w.cfg, w, w.store, w.limits.Of, slog.New(slog.DiscardHandler), d.reg)
	require.NoError(w.t, err)
	d.Distributor.now = func() time.Time { return time.Now().Add(skew) }
	d.ha.now = d.Distributor.now
	r := mux.NewRouter()
	d.RegisterOperatorRoutes(r)
	tenants := r.NewRoute().Subrouter()
	tenants.Use(tenant.Middleware)
	d.RegisterRoutes(tenants)
	d.server = r
	require.NoError(w.t, services.StartAndAwaitRunning(w.t.Context(), d.Distributor))
	return d
}

func (d *haNode) stop(t *testing.T) {
	require.NoError(t, services.StopAndAwaitTerminated(context.Background(), d.Distributor))
}

// memoryStore is a store that has one value for all, as Consul and etcd have.
type memoryStore struct {
	broken  atomic.Bool // it is out of reach
	mute    atomic.Bool // it tells nobody of changes
	mu      sync.Mutex
	values  map[string][]byte
	changed chan struct{} // closed at the next change
}

var errOutOfReach = errors.New("out of reach")

func (s *memoryStore) Get(_ context.Context, key string) (any, error) {
	if s.broken.Load() {
		return nil, errOutOfReach
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[key] == nil {
		return nil, nil
	}
	return HACodec{}.Decode(s.values[key])
}

func (s *memoryStore) CAS(ctx context.Context, key string, f func(any) (any, bool, error)) error {
	for {
		in, err := s.Get(ctx, key)
		if err != nil {
			return err
		}
		s.mu.Lock()
		before := s.values[key]
		s.mu.Unlock()
		out, _, err := f(in)
		if err != nil || out == nil {
			return err
		}
		after, err := HACodec{}.Encode(out)
		if err != nil {
			return err
		}
		s.mu.Lock()
		won := bytes.Equal(before, s.values[key])
		if won {
			s.values[key] = after
			if !s.mute.Load() {
				close(s.changed)
				s.changed = make(chan struct{})
			}
		}
		s.mu.Unlock()
		if won {
			return nil
		}
	}
}

func (s *memoryStore) WatchPrefix(ctx context.Context, prefix string, f func(string, any) bool) {
	for ctx.Err() == nil {
		s.mu.Lock()
		changed := s.changed
		keys := slices.Collect(maps.Keys(s.values))
		s.mu.Unlock()
		for _, key := range keys {
			if v, err := s.Get(ctx, key); err == nil && strings.HasPrefix(key, prefix) {
				f(key, v)
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// restart replaces a node by a new process.
func (w *world) restart(n int) {
	w.nodes[n].stop(w.t)
	w.nodes[n] = w.start(0)
}

// replicaValue is the value of a replica's samples: what is stored tells whose it was.
func replicaValue(replica string) float64 { return float64(replica[0]) }

// Push implements Ingester.
func (w *world) Needs(tenant.ID, wire.Version) wire.Names { return wire.Keys }

func (w *world) Push(_ context.Context, id tenant.ID, r *wire.Request) (wire.Pushed, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down != nil {
		return wire.Pushed{}, w.down
	}
	for i, s := range r.Series {
		name := string(id) + " " + wire.SeriesString(r.Labels(i, nil))
		for _, x := range r.Samples[s.Samples.Lo:s.Samples.Hi] {
			w.samples[name] = append(w.samples[name], x.T)
			w.from[string(rune(x.V))]++
		}
	}
	return wire.Pushed{Samples: len(r.Samples), Histograms: len(r.Histograms), Exemplars: len(r.Exemplars)}, nil
}

func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = err
}

// stored is how many samples of a replica are stored.
func (w *world) stored(replica string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.from[replica[:1]]
}

// gap is the longest time between two neighbouring samples of a series.
func (w *world) gap(series string) (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	times := slices.Sorted(slices.Values(w.samples[series]))
	require.NotEmpty(w.t, times, "of %s, there are %v", series, w.samples)
	for i := 1; i < len(times); i++ {
		longest = max(longest, time.Duration(times[i]-times[i-1])*time.Millisecond)
	}
	return longest
}

// scrape is the request of a replica with one sample of now.
func scrape(cluster, replica string) []prompb.TimeSeries {
	return []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "__replica__", Value: replica}, {Name: "cluster", Value: cluster}},
		Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: replicaValue(replica)}},
	}}
}

func (d *haNode) write(t *testing.T, id string, ts []prompb.TimeSeries) *httptest.ResponseRecorder {
	body, err := (&prompb.WriteRequest{Timeseries: ts}).Marshal()
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, body)))
	r.Header.Set(tenant.Header, id)
	out := httptest.NewRecorder()
	d.server.ServeHTTP(out, r)
	return out
}

// send has a replica of cluster c of tenant t send to a node, and returns the
// status of the answer.
func (w *world) send(n int, replica string) int {
	code := w.nodes[n].write(w.t, "t", scrape("c", replica)).Code
	synctest.Wait()
	return code
}

// sender is a replica that scrapes and sends at once.
type sender struct {
	replica  string
	offset   time.Duration
	interval time.Duration
	until    time.Duration // 0: it never stops
	delay    time.Duration // of a request
}

// run lets senders send for a while, each request to another node.
func (w *world) run(d time.Duration, senders ...sender) {
	const step = 100 * time.Millisecond
	requests := 0
	late := map[time.Duration][]func(){}
	for now := time.Duration(0); now < d; now += step {
		for _, s := range senders {
			if s.until != 0 && now >= s.until || now < s.offset || (now-s.offset)%s.interval != 0 {
				continue
			}
			ts := scrape("c", s.replica)
			late[now+s.delay] = append(late[now+s.delay], func() {
				requests++
				code := w.nodes[requests%len(w.nodes)].write(w.t, "t", ts).Code
				require.Contains(w.t, []int{200, 202}, code)
			})
		}
		for _, f := range late[now] {
			f()
		}
		delete(late, now)
		synctest.Wait()
		time.Sleep(step) // of the bubble's time
	}
}

// elected is whom each node takes for the elected replica of cluster c.
func (w *world) elected() (out []string) {
	for _, d := range w.nodes {
		replica := ""
		for _, p := range d.ha.shown() {
			if p.Cluster == "c" {
				replica = p.Replica
			}
		}
		out = append(out, replica)
	}
	return out
}

// count is a counter summed over the nodes.
func (w *world) count(pick func(*haMetrics) prometheus.Counter) (sum float64) {
	for _, d := range w.nodes {
		sum += testutil.ToFloat64(pick(d.Distributor.metrics.ha))
	}
	return sum
}

func failovers(m *haMetrics) prometheus.Counter { return m.elections.failover }

func (w *world) heldBytes() (sum int) {
	for _, d := range w.nodes {
		sum += d.ha.heldBytes()
	}
	return sum
}

func repeat[T any](v T, n int) (out []T) {
	for range n {
		out = append(out, v)
	}
	return out
}

func (s sender) String() string {
	return fmt.Sprintf("%s every %s from %s", s.replica, s.interval, s.offset)
}
