// Package alertmanager is CALL: it tells people that something is wrong, once.
//
// In come alerts of a tenant, from its rules or from outside, and by HTTP its
// configuration and silences; out go notifications through the receivers that
// the configuration names. Each tenant with a configuration has an Alertmanager
// of its own, made of the packages of prometheus/alertmanager (tenant.go). In a
// cluster it lives on three members (place.go): all get the alerts, and tell
// each other of silences and of what was sent (replicate.go), so that one sends
// and the others see that it did. What they know is in the bucket too
// (state.go). Promises: a tenant without a configuration costs nothing; no
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
	"github.com/prometheus/alertmanager/eventrecorder"
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
	pipeline *notify.PipelineBuilder
	place    *Place
	metrics  *metrics
	notified func(tenant.ID)
	logger   *slog.Logger

	changing [64]sync.Mutex // by a tenant's hash: one change at a time

	mu      sync.RWMutex
	tenants map[tenant.ID]*instance
	known   map[tenant.ID]string // tenants with a configuration, and its ETag
	listed  time.Time            // when known was read; zero: never
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
		pipeline: notify.NewPipelineBuilder(prometheus.WrapRegistererWithPrefix("hearth_", reg), featurecontrol.NoopFlags{}, eventrecorder.Recorder{}),
		tenants:  map[tenant.ID]*instance{},
		notified: func(tenant.ID) {},
		known:    map[tenant.ID]string{},
	}
	a.metrics = newMetrics(reg, a.count)
	a.Service = services.NewBasicService(nil, a.run, a.stop)
	place.self = a.Server()
	return a, nil
}

// count is the number of tenants whose Alertmanager runs here.
func (a *Alertmanager) count() float64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return float64(len(a.tenants))
}

func (a *Alertmanager) get(id tenant.ID) *instance {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.tenants[id]
}

// here is a tenant's Alertmanager, or an error that says why it is not here.
func (a *Alertmanager) here(id tenant.ID) (*instance, error) {
	if in := a.get(id); in != nil {
		return in, nil
	}
	a.mu.RLock()
	_, configured := a.known[id]
	looked := !a.listed.IsZero()
	a.mu.RUnlock()
	if looked && !configured {
		return nil, errNotConfigured()
	}
	return nil, errNotHere()
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
	err := a.each(ctx, func(ctx context.Context, in *instance) error {
		in.close() // first: what is sent meanwhile is part of the state
		in.catchUp(ctx)
		return in.save(ctx)
	})
	a.place.close()
	return err
}
