// Package alertmanager is CALL: it tells people that something is wrong, once.
//
// In come alerts of a tenant, from its rules or from outside, and by HTTP its
// configuration and silences; out go notifications through the receivers that
// the configuration names. Each tenant with a configuration has an Alertmanager
// of its own, made of the packages of prometheus/alertmanager (tenant.go), in
// memory as long as it has something to do (sleep.go). In a
// cluster it lives on three members (place.go): all get the alerts, and tell
// each other of silences and of what was sent (replicate.go), so that one sends
// and the others see that it did. What they know is in the bucket too
// (state.go). Promises: a tenant without alerts costs next to nothing; no
// notification is lost, and none is sent twice, because a process stops,
// starts or takes over. Start reading at Alertmanager, then sync.go.
package alertmanager

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Alertmanager has the Alertmanagers of the tenants that are placed here, and
// finds those of the others. It is a service. Safe for concurrent use.
type Alertmanager struct {
	services.Service

	cfg      Config
	url      *url.URL // of the API, for links in notifications
	store    store
	limits   func(tenant.ID) *tenant.Limits
	door     firewall
	notified *notify.Metrics
	place    *Place
	metrics  *metrics
	sent     func(tenant.ID) // counts a notification
	logger   *slog.Logger

	changing [64]sync.Mutex // by a tenant's hash: one change at a time

	mu      sync.RWMutex
	tenants map[tenant.ID]*instance // those that are awake
	asleep  map[tenant.ID]bool      // those that are here, and have nothing to do
	known   map[tenant.ID]string    // tenants with a configuration, and its ETag
	listed  time.Time               // when known was read; zero: never
	closed  bool                    // no tenant is opened any more
}

// New makes an Alertmanager. place says where tenants are; Alone puts all here.
func New(cfg Config, b bucket.Bucket, place *Place, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, reg prometheus.Registerer) (*Alertmanager, error) {
	u, err := url.Parse(cfg.ExternalURL)
	if err != nil {
		return nil, fmt.Errorf("external_url: %w", err)
	}
	door, err := newFirewall(cfg)
	if err != nil {
		return nil, err
	}
	a := &Alertmanager{
		cfg: cfg, url: u, store: store{b}, limits: limits, door: door, place: place, logger: logger,
		notified: notify.NewMetrics(prometheus.WrapRegistererWithPrefix("hearth_", reg), featurecontrol.NoopFlags{}),
		tenants:  map[tenant.ID]*instance{},
		sent:     func(tenant.ID) {},
		asleep:   map[tenant.ID]bool{},
		known:    map[tenant.ID]string{},
	}
	a.notified.InitializeFor(nil)
	a.metrics = newMetrics(reg, a.count)
	a.Service = services.NewBasicService(nil, a.run, a.stop)
	place.self = a.Server()
	return a, nil
}

// count is the number of tenants whose Alertmanager is here, and of those that
// are awake.
func (a *Alertmanager) count() (here, awake int) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.tenants) + len(a.asleep), len(a.tenants)
}

func (a *Alertmanager) get(id tenant.ID) *instance {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.tenants[id]
}

// here is a tenant's Alertmanager, which is woken if it sleeps, or an error that
// says why it is not here. It stays awake until done is called.
func (a *Alertmanager) here(ctx context.Context, id tenant.ID) (in *instance, done func(), err error) {
	if in := a.use(id); in != nil {
		return in, in.done, nil
	}
	if err := a.whyNot(id); err != nil {
		return nil, nil, err
	}
	if err := a.wake(ctx, id); err != nil {
		return nil, nil, err
	}
	if in := a.use(id); in != nil {
		return in, in.done, nil
	}
	return nil, nil, errNotHere()
}

// use is get for those who want it to stay.
func (a *Alertmanager) use(id tenant.ID) *instance {
	a.mu.RLock()
	defer a.mu.RUnlock()
	in := a.tenants[id]
	if in != nil {
		in.users.Add(1)
		in.used.Store(time.Now().UnixNano())
	}
	return in
}

// whyNot says why a tenant cannot be woken here; nil: it can.
func (a *Alertmanager) whyNot(id tenant.ID) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, configured := a.known[id]
	switch {
	case !a.listed.IsZero() && !configured:
		return errNotConfigured()
	case !a.asleep[id]:
		return errNotHere()
	default:
		return nil
	}
}

func errNotConfigured() error {
	return wire.Errorf(wire.NotFound, "err-alertmanager-not-configured", "the Alertmanager is not configured: send a configuration to /api/v1/alerts")
}

func errNotHere() error {
	return &wire.UserError{Kind: wire.Unavailable, ID: "err-alertmanager-not-ready", Msg: "the Alertmanager of this tenant is starting, retry in a moment", RetryAfter: 2 * time.Second}
}

// stopTimeout bounds the last writes of all tenants' state.
const stopTimeout = 30 * time.Second

func (a *Alertmanager) stop(error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	err := a.each(ctx, func(ctx context.Context, in *instance) error {
		in.close() // first: what is sent meanwhile is part of the state
		in.catchUp(ctx)
		return in.save(ctx)
	})
	a.place.close()
	return err
}
