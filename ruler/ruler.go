// Package ruler is the LOOP: it evaluates each tenant's recording and alerting
// rules, again and again.
//
// In come rule groups by API, and the data that their expressions ask for; out
// go series, written as any other series of the tenant, and alerts for
// Alertmanagers. Rules mean what they mean in Prometheus, whose own package
// evaluates them. Promises: each group is evaluated by one of the rulers that
// are there; when that one is lost, another goes on with the alerts where they
// were, and nothing resolves or fires anew for it.
//
// Start reading at http.go (how rules get here), store.go (where they are kept),
// then run in this file, place in own.go (which groups are ours), and runner.go
// (one group); evaluate.go reads and writes, templates.go fills in what alerts say, notify.go tells Alertmanagers, and
// api.go shows how things are.
package ruler

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/budget"
	"github.com/hearth-metrics/hearth/cores"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Writes stores what rules record: a remote-write request 1.0 in snappy, under
// the tenant's limits. It does not keep the body.
type Writes interface {
	Append(ctx context.Context, id tenant.ID, snappy []byte) (wire.Pushed, error)
}

// Parts is what a ruler needs of others. Engine and Data take the tenant from
// the context, as the querier's do.
type Parts struct {
	Bucket  bucket.Bucket
	Engine  promql.QueryEngine
	Data    storage.Queryable
	Parser  parser.Parser
	Writes  Writes
	Alerts  Notifier // the tenants' own Alertmanagers; nil: there are none
	Limits  func(tenant.ID) *tenant.Limits
	Status  func(tenant.ID) tenant.Status // rules are evaluated of those that are active
	Cluster *Cluster                      // nil: there is no other ruler

	Evaluated func(tenant.ID) // counts an evaluation
}

// Ruler evaluates the groups that are its own. It is a service.
type Ruler struct {
	services.Service
	Parts

	cfg         Config
	externalURL *url.URL
	store       *store
	sender      *sender
	logger      *slog.Logger
	metrics     *metrics
	perGroup    *rules.Metrics // what Prometheus' package insists on; not shown: it grows with the groups
	slots       chan struct{}  // one for each query that may run
	wake        chan struct{}
	stopping    chan struct{} // closed when groups are stopped for good
	runners     sync.WaitGroup

	mu      sync.Mutex
	dirty   map[tenant.ID]bool // whose rules are to be read again
	tenants map[tenant.ID]*tenantRules
}

// tenantRules is a tenant's rules as they were last read, and the groups of
// them that are evaluated here.
type tenantRules struct {
	doc    Document
	etag   string
	active bool           // as far as its status goes
	slots  chan struct{}  // one for each query of the tenant that may run
	purse  *budget.Budget // of its templates
	ours   map[groupName]*runner
}

type groupName struct{ namespace, group string }

const (
	lookTick   = time.Second      // how soon a change of members is noticed
	listTick   = 30 * time.Minute // how late a change is that nobody has told us of
	retryList  = 10 * time.Second
	stopGrace  = 15 * time.Second // for evaluations that run when we stop
	readsAtOne = 16               // documents read from the bucket at once
)

// New makes a Ruler.
func New(cfg Config, p Parts, logger *slog.Logger, reg prometheus.Registerer) (*Ruler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	external, err := url.Parse(cfg.ExternalURL)
	if err != nil {
		return nil, err
	}
	r := &Ruler{
		Parts: p, cfg: cfg, externalURL: external,
		store:    newStore(p.Bucket),
		logger:   logger,
		metrics:  newMetrics(reg),
		perGroup: rules.NewGroupMetrics(nil),
		slots:    make(chan struct{}, max(8, 4*cores.Count())),
		wake:     make(chan struct{}, 1),
		stopping: make(chan struct{}),
		dirty:    map[tenant.ID]bool{},
		tenants:  map[tenant.ID]*tenantRules{},
	}
	r.sender = newSender(p.Alerts, p.Limits, logger, r.metrics.alerts)
	r.Service = services.NewBasicService(nil, r.run, nil)
	return r, nil
}

// run evaluates until ctx ends. It is the only one that starts and stops groups.
func (r *Ruler) run(ctx context.Context) error {
	// Evaluations end when their groups are stopped, not before.
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var wg sync.WaitGroup
	if r.Cluster != nil {
		wg.Go(func() { r.Cluster.listen(ctx, r.changed) })
	}
	r.follow(ctx, work)

	grace := time.AfterFunc(stopGrace, cut)
	defer grace.Stop()
	r.stopAll()
	r.sender.close()
	wg.Wait()
	return nil
}

func (r *Ruler) follow(ctx, work context.Context) {
	look, list := time.NewTicker(lookTick), time.NewTimer(0)
	defer look.Stop()
	defer list.Stop()
	members := r.members()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
			r.readDirty(ctx, work)
		case <-look.C:
			r.lookAtStatus()
			r.readDirty(ctx, work) // what could not be read, too
			if now := r.members(); !sameMembers(members, now) {
				members = now
				r.placeAll(work)
			}
		case <-list.C:
			next := listTick + time.Duration(rand.Int64N(int64(listTick/10)))
			err := r.lookAtAll(ctx)
			r.metrics.syncs.WithLabelValues(outcome(err)).Inc()
			if err != nil {
				next = retryList
				if ctx.Err() == nil {
					r.logger.Warn("rules not listed, will retry", "err", err)
				}
			}
			r.readDirty(ctx, work)
			list.Reset(next)
		}
	}
}

// changed has a tenant's rules read again. Safe for concurrent use.
func (r *Ruler) changed(id tenant.ID) {
	r.mu.Lock()
	r.dirty[id] = true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // it is awake
	}
}

// lookAtStatus marks the tenants that have been suspended, are active again, or
// are gone, the rules with them.
func (r *Ruler) lookAtStatus() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, t := range r.tenants {
		if t.active != (r.Status(id) == tenant.Active) {
			r.dirty[id] = true
		}
	}
}

// lookAtAll marks the tenants whose rules are not as they were when read.
func (r *Ruler) lookAtAll(ctx context.Context) error {
	seen := map[tenant.ID]string{}
	for v, err := range r.store.all(ctx) {
		if err != nil {
			return err
		}
		seen[v.id] = v.etag
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, etag := range seen {
		if t := r.tenants[id]; t == nil || t.etag != etag {
			r.dirty[id] = true
		}
	}
	for id := range r.tenants {
		if _, ok := seen[id]; !ok {
			r.dirty[id] = true
		}
	}
	return nil
}

// readDirty reads rules that have changed, and does what they say. What cannot
// be read stays as it was, and is read again soon.
func (r *Ruler) readDirty(ctx, work context.Context) {
	r.mu.Lock()
	dirty := r.dirty
	r.dirty = map[tenant.ID]bool{}
	r.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(readsAtOne)
	for id := range dirty {
		g.Go(func() error {
			doc, etag, err := r.store.get(ctx, id)
			if err == nil {
				r.take(work, id, doc, etag)
				return nil
			}
			if ctx.Err() == nil {
				r.logger.Warn("rules not read, will retry", "tenant", id, "err", err)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.dirty[id] = true
			return nil
		})
	}
	_ = g.Wait() // none returns an error
}

// take has a tenant's rules be these.
func (r *Ruler) take(work context.Context, id tenant.ID, doc Document, etag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tenants[id]
	if t == nil {
		t = &tenantRules{
			slots: make(chan struct{}, max(2, cap(r.slots)/4)),
			purse: budget.New(),
			ours:  map[groupName]*runner{},
		}
		r.tenants[id] = t
	}
	t.doc, t.etag, t.active = doc, etag, r.Status(id) == tenant.Active
	r.place(work, id, t, r.members())
	if etag == "" {
		delete(r.tenants, id)
	}
	r.metrics.tenants.Set(float64(len(r.tenants)))
}

// stopAll stops all groups where they stand: whoever takes them over, or we
// after a restart, goes on.
func (r *Ruler) stopAll() {
	close(r.stopping)
	r.mu.Lock()
	for _, t := range r.tenants {
		for name, g := range t.ours {
			delete(t.ours, name)
			r.runners.Go(g.stop)
		}
	}
	r.mu.Unlock()
	r.runners.Wait()
}
