package app

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/mux"
	"github.com/grafana/dskit/services"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/alertmanager"
	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/compactor"
	"github.com/hearth-metrics/hearth/ingester"
	"github.com/hearth-metrics/hearth/querier"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/ruler"
	"github.com/hearth-metrics/hearth/storegateway"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/admin"
	"github.com/hearth-metrics/hearth/tenant/meter"
	"github.com/hearth-metrics/hearth/wire"
)

// The day of TestRequestsOfADay. `make bench-requests` has a larger one, whose
// figures are in docs/operate.md.
var (
	dayTenants = flag.Int("day.tenants", 50, "tenants in the pool")
	daySeries  = flag.Int("day.series", 2, "series of each")
)

// requestsADay is how many requests to object storage a cluster may need in a
// day, whatever the number of its pooled tenants: one for each of 10,000.
const requestsADay = 10_000

// TestRequestsOfADay has three processes with all parts, three copies of
// everything, and tenants that write, ask, have rules and an Alertmanager, live
// through a day and a half of fake time, and counts what is asked of the bucket
// in the last day. A request is what S3 bills: see priced.
func TestRequestsOfADay(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: a day and a half of three processes")
	}
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 3, *dayTenants)
		v.live(13 * time.Hour) // behind the first blocks of half a day
		v.bill.take()
		v.live(24 * time.Hour)
		day, whole := v.bill.take()
		v.stop()
		total := 0
		for _, what := range slices.Sorted(maps.Keys(day)) {
			t.Logf("%-28s %6d", what, day[what])
			total += day[what]
		}
		t.Logf("%-28s %6d, of %d tenants", "all", total, *dayTenants)
		require.LessOrEqual(t, total, requestsADay)
		require.Zero(t, whole, "nobody lists more than a folder's first level, but of one block")
	})
}

// TestIdleTenantsCostNothing has one process, and homes in which nothing
// happens: few or many, they cost the same.
func TestIdleTenantsCostNothing(t *testing.T) {
	t.Parallel()
	cost := func(homes int) (count map[string]int) {
		synctest.Test(t, func(t *testing.T) {
			v := newVillage(t, 1, 0)
			all := []bucket.Key{bucket.PoolHome}
			for i := range homes {
				all = append(all, bucket.TenantHome(fmt.Sprintf("idle-%03d", i)))
			}
			for _, home := range all {
				require.NoError(t, bucket.UpdateIndex(t.Context(), v.bucket, home, func(x *bucket.Index) error {
					x.AddBlock(bucket.IndexBlock{ID: ulid.ULID{15: 1}, MinTime: 0, MaxTime: 1})
					return nil
				}))
			}
			time.Sleep(25 * time.Hour) // until the compactor has found them
			v.bill.take()
			time.Sleep(3 * time.Hour)
			var whole int
			count, whole = v.bill.take()
			require.Zero(t, whole)
			v.stop()
		})
		return count
	}
	few, many := cost(1), cost(500)
	t.Logf("three hours: %v", few)
	require.ElementsMatch(t, slices.Collect(maps.Keys(few)), slices.Collect(maps.Keys(many)))
	for what := range few { // when rulers look is left to chance
		require.InDelta(t, few[what], many[what], 1, what)
	}
}

// bill is what was asked of the bucket, by component and operation.
type bill struct {
	mu    sync.Mutex
	count map[string]int
	whole int // lists of everything below a home, or below all
}

func (b *bill) add(component, op string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count[component+" "+op] += n
}

func (b *bill) take() (count map[string]int, whole int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	count, whole = b.count, b.whole
	b.count, b.whole = map[string]int{}, 0
	return count, whole
}

// priced is a Bucket in the hands of a component. What S3 bills for an
// operation is what TestRequestsToS3 of package bucket has counted.
type priced struct {
	bucket.Bucket
	bill      *bill
	component string
}

func (p *priced) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	p.bill.add(p.component, "get", 1)
	return p.Bucket.Get(ctx, key)
}

func (p *priced) GetRange(ctx context.Context, key bucket.Key, offset, length int64) (io.ReadCloser, error) {
	p.bill.add(p.component, "get_range", 1)
	return p.Bucket.GetRange(ctx, key, offset, length)
}

func (p *priced) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, cond bucket.Condition) (string, error) {
	const part = 64 << 20
	n := 1
	if size > part {
		n = int((size+part-1)/part) + 2
	}
	p.bill.add(p.component, "put", n)
	return p.Bucket.Put(ctx, key, r, size, cond)
}

func (p *priced) Stat(ctx context.Context, key bucket.Key) (bucket.Object, error) {
	p.bill.add(p.component, "stat", 1)
	return p.Bucket.Stat(ctx, key)
}

func (p *priced) List(ctx context.Context, prefix bucket.Key, recursive bool) iter.Seq2[bucket.Object, error] {
	if _, block := bucket.ParseBlockID(prefix.Base()); recursive && !block {
		p.bill.mu.Lock()
		p.bill.whole++
		p.bill.mu.Unlock()
	}
	return func(yield func(bucket.Object, error) bool) {
		n := 0
		defer func() { p.bill.add(p.component, "list", max(1, (n+999)/1000)) }()
		for o, err := range p.Bucket.List(ctx, prefix, recursive) {
			n++
			if !yield(o, err) {
				return
			}
		}
	}
}

func (p *priced) Delete(ctx context.Context, key bucket.Key) error {
	p.bill.add(p.component, "delete", 1)
	return p.Bucket.Delete(ctx, key)
}

// village is some processes over one bucket, without the network between them.
type village struct {
	t       *testing.T
	bucket  bucket.Bucket
	bill    *bill
	news    *newsroom
	members []*villager
	tokens  []string // of the tenants
	minute  int
}

// villager is one process.
type villager struct {
	v        *village
	id       string
	parts    []services.Service
	registry *tenant.Registry
	auth     *tenant.Auth
	ing      *ingester.Ingester
	quer     *querier.Querier
	am       *alertmanager.Alertmanager
	routes   *mux.Router
}

func tenantOf(i int) tenant.ID { return tenant.ID(fmt.Sprintf("tenant-%05d", i)) }

func newVillage(t *testing.T, n, tenants int) *village {
	t.Helper()
	b, err := bucket.New(bucket.DefaultConfig(), t.TempDir(), discard(), prometheus.NewRegistry())
	require.NoError(t, err)
	v := &village{t: t, bucket: b, bill: &bill{count: map[string]int{}}, news: &newsroom{values: map[string]any{}}}
	for i := range n {
		v.members = append(v.members, &villager{v: v, id: fmt.Sprint("hearth-", i)})
	}
	for _, m := range v.members {
		m.start()
		time.Sleep(40 * time.Second) // of the bubble: they were not started in the same instant
	}
	for i := range tenants {
		_, _, secret, err := v.members[0].registry.CreateTenant(t.Context(), tenant.Tenant{ID: tenantOf(i)}, tenant.DataScopes)
		require.NoError(t, err)
		v.tokens = append(v.tokens, secret)
	}
	for i := 0; i < tenants; i += max(10, tenants/50) {
		v.members[i%n].post(tenantOf(i), "/prometheus/config/v1/rules/ns", "interval: 10m\n"+threeRules)
		v.members[i%n].post(tenantOf(i), "/api/v1/alerts", "alertmanager_config: |\n  route: {receiver: none}\n  receivers: [{name: none}]\n")
	}
	return v
}

// Members and ReplicationFactor are what alertmanagers ask of a ring.
func (v *village) Members() (all []ring.Member) {
	for _, m := range v.members {
		all = append(all, ring.Member{ID: m.id})
	}
	return all
}

func (v *village) ReplicationFactor() int { return len(v.members) }

func (v *village) owner(key string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return v.members[h.Sum32()%uint32(len(v.members))].id
}

func (m *villager) bucket(component string) bucket.Bucket {
	return &priced{m.v.bucket, m.v.bill, component}
}

// start makes the parts of a process, as App does, and starts them.
func (m *villager) start() {
	t, cfg, dir, reg := m.v.t, DefaultConfig(), m.v.t.TempDir(), prometheus.NewRegistry()
	cfg.StoreGateway.MaxIndexDisk, cfg.StoreGateway.ChunkCacheDisk = 1<<30, 64<<20
	var err error
	add := func(s services.Service, err error) {
		t.Helper()
		require.NoError(t, err)
		require.NoError(t, services.StartAndAwaitRunning(context.Background(), s))
		m.parts = append(m.parts, s)
	}
	m.registry, err = tenant.New(cfg.Tenants, tenant.Options{Limits: cfg.Limits, Bucket: m.bucket("tenants"), DataDir: dir}, discard(), reg)
	require.NoError(t, err)
	m.registry.Share(m.v.news)
	add(m.registry, err)
	m.auth, err = tenant.NewAuth(cfg.Auth, m.registry)
	require.NoError(t, err)
	limits := m.registry.Limits
	m.ing, err = ingester.New(cfg.Ingester, dir, m.bucket("ingester"), limits, discard(), reg)
	add(m.ing, err)
	count := meter.New(meter.Options{Bucket: m.bucket("meter"), Instance: m.id, Replicas: 3, Series: m.ing.EachTenant}, discard(), reg)
	gateway, err := storegateway.New(cfg.StoreGateway, dir, m.bucket("storegateway"), limits, discard(), reg)
	add(gateway, err)
	list := querier.NewCatalogue(cfg.Querier, m.bucket("querier"), discard(), reg)
	add(list, nil)
	m.quer, err = querier.New(cfg.Querier, m.ing, querier.NewLocal(list, gateway), limits, discard(), reg)
	require.NoError(t, err)
	m.quer.CountWith(count)
	add(m.quer, err)
	cfg.Compactor.PoolPart = uint64(max(1, *dayTenants**daySeries)) // with three copies that makes four parts
	comp, err := compactor.New(cfg.Compactor, dir, m.bucket("compactor"), limits, discard(), reg)
	require.NoError(t, err)
	comp.ShareWork(func(key string) bool { return m.v.owner(key) == m.id })
	comp.DeleteFor(m.registry)
	add(comp, err)
	count.ObserveBlocks(comp.EachTenant)
	add(count, nil)
	m.routes = mux.NewRouter()
	admin.New(m.registry, count, discard()).RegisterRoutes(func(tenant.Scope) *mux.Router { return m.routes }, m.routes)
	place := alertmanager.Among(m.v, m.id, func(to ring.Member) (wire.AlertmanagerServer, error) {
		i := slices.IndexFunc(m.v.members, func(o *villager) bool { return o.id == to.ID && o.am != nil })
		if i < 0 {
			return nil, fmt.Errorf("%s has not started", to.ID)
		}
		return m.v.members[i].am.Server(), nil
	})
	m.am, err = alertmanager.New(cfg.Alertmanager, m.bucket("alertmanager"), place, limits, discard(), reg)
	add(m.am, err)
	m.am.RegisterRoutes(m.routes, m.routes)
	rul, err := ruler.New(cfg.Ruler, ruler.Parts{
		Bucket: m.bucket("ruler"), Engine: m.quer.Engine(), Data: m.quer.Queryable(), Parser: m.quer.Parser(), Writes: unwritten{}, Limits: limits,
		Status:    func(tenant.ID) tenant.Status { return tenant.Active },
		Evaluated: count.Evaluated,
		Cluster:   &ruler.Cluster{Self: m.id, Rulers: m.v.Members, Changes: m.v.news, Call: nil, Logger: discard()},
	}, discard(), reg)
	add(rul, err)
	rul.RegisterRoutes(m.routes, m.routes)
}

// unwritten takes what rules record, and forgets it.
type unwritten struct{}

func (unwritten) Append(context.Context, tenant.ID, []byte) (wire.Pushed, error) {
	return wire.Pushed{}, nil
}

func (m *villager) post(id tenant.ID, path, body string) {
	m.v.t.Helper()
	r := httptest.NewRequestWithContext(tenant.WithID(m.v.t.Context(), id), http.MethodPost, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	m.routes.ServeHTTP(w, r)
	require.Equal(m.v.t, 2, w.Code/100, w.Body.String())
}

// live has time pass. Each tenant writes once an hour, to all three, and comes
// with its token to one of them; each minute some ask for what is new, and each
// ten minutes one for its last day.
func (v *village) live(d time.Duration) {
	for range int(d / time.Minute) {
		for i := v.minute % 60; i < *dayTenants; i += 60 {
			v.write(i)
		}
		for i, m := range v.members {
			for n := range 5 {
				m.ask(tenantOf((v.minute*5+n*7+i)%*dayTenants), 5*time.Minute)
			}
			if v.minute%10 == 0 {
				m.ask(tenantOf((v.minute/10+i)%*dayTenants), 24*time.Hour)
			}
		}
		v.minute++
		time.Sleep(time.Minute) // of the bubble
	}
}

func (v *village) write(i int) {
	v.t.Helper()
	body := &prompb.WriteRequest{}
	now := time.Now().UnixMilli()
	for n := range *daySeries {
		body.Timeseries = append(body.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: fmt.Sprint("metric_", n)}, {Name: "job", Value: "node"}},
			Samples: []prompb.Sample{{Timestamp: now, Value: float64(v.minute * n)}},
		})
	}
	raw, err := body.Marshal()
	require.NoError(v.t, err)
	for _, m := range v.members {
		r := new(wire.Request)
		require.NoError(v.t, r.Walk(raw, wire.V1, string(tenantOf(i)), func(*wire.Series, []wire.Label) bool { return true }))
		pushed, err := m.ing.Push(v.t.Context(), tenantOf(i), r)
		require.NoError(v.t, err)
		require.Equal(v.t, *daySeries, pushed.Samples)
	}
	v.members[(v.minute+i)%len(v.members)].come(v.tokens[i])
}

// come is a request with a token.
func (m *villager) come(token string) {
	m.v.t.Helper()
	r := httptest.NewRequestWithContext(m.v.t.Context(), http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	m.auth.Require(tenant.MetricsWrite)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })).ServeHTTP(w, r)
	require.Equal(m.v.t, http.StatusNoContent, w.Code, w.Body.String())
}

// ask reads a metric of a tenant up to now.
func (m *villager) ask(id tenant.ID, back time.Duration) {
	m.v.t.Helper()
	now := time.Now()
	ctx := tenant.WithID(m.v.t.Context(), id)
	q, err := m.quer.Queryable().Querier(now.Add(-back).UnixMilli(), now.UnixMilli())
	require.NoError(m.v.t, err)
	hints := &storage.SelectHints{Start: now.Add(-back).UnixMilli(), End: now.UnixMilli()}
	set := q.Select(ctx, true, hints, labels.MustNewMatcher(labels.MatchEqual, "__name__", "metric_0"))
	n := 0
	for set.Next() {
		for it := set.At().Iterator(nil); it.Next() != 0; n++ {
			continue
		}
	}
	require.NoError(m.v.t, set.Err())
	require.NoError(m.v.t, q.Close())
	if back > 2*time.Hour {
		require.GreaterOrEqual(m.v.t, n, min(v24(m.v.minute), 23), "samples of %s", id)
	}
}

// v24 is how many samples a tenant has written in its last day, at least.
func v24(minute int) int { return minute/60 - 1 }

func (v *village) stop() {
	for _, m := range v.members {
		for _, s := range slices.Backward(m.parts) {
			require.NoError(v.t, services.StopAndAwaitTerminated(context.Background(), s), m.id)
		}
	}
}

// newsroom is the gossip between processes.
type newsroom struct {
	mu       sync.Mutex
	values   map[string]any
	watchers []chan struct{}
}

// CAS implements tenant.News and ruler.ChangeStore.
func (s *newsroom) CAS(_ context.Context, key string, f func(any) (any, bool, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, _, err := f(s.values[key])
	if err != nil || out == nil {
		return err
	}
	s.values[key] = out
	for _, c := range s.watchers {
		select {
		case c <- struct{}{}:
		default: // it will look
		}
	}
	return nil
}

// WatchKey implements tenant.News and ruler.ChangeStore.
func (s *newsroom) WatchKey(ctx context.Context, key string, f func(any) bool) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	s.watchers = append(s.watchers, c)
	s.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c:
			s.mu.Lock()
			v := s.values[key]
			s.mu.Unlock()
			if v != nil && !f(v) {
				return
			}
		}
	}
}
