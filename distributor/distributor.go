// Package distributor is IN 1: it accepts what senders push. A request comes in
// as compressed bytes; it is decoded in place, validated series by series
// against the tenant's limits, and what is good goes on to the ingester that
// owns it. The good part of a request is stored, the bad part is reported. Of
// several Prometheus that scrape the same, one is stored.
//
// Start reading at push.go, then admit.go, ha.go, validate.go and limit.go.
package distributor

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hearth-metrics/hearth/cores"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Ingester stores requests durably. It only reads r, and does not keep it.
type Ingester interface {
	// Needs says which names the series of the tenant's next request, of a
	// version, should have.
	Needs(id tenant.ID, v wire.Version) wire.Names
	Push(ctx context.Context, id tenant.ID, r *wire.Request) (wire.Pushed, error)
}

// Distributor is the door for writes. It is safe for concurrent use and holds
// no data that was acknowledged as stored. It is a service: while it runs it
// agrees with other distributors on which replicas are elected, and stores what
// it held for those that take over.
type Distributor struct {
	services.Service

	cfg          Config
	ingester     Ingester
	limits       func(tenant.ID) *tenant.Limits
	logger       *slog.Logger
	metrics      *metrics
	rates        tenant.Rates // of samples
	byteRates    tenant.Rates
	requestRates tenant.Rates
	overdrawn    overdrawn
	inflight     inflight
	turns        *turns
	ha           *haTracker
	now          func() time.Time

	distributors func() int // that are healthy, this one among them
	meter        Meter
}

// Meter counts what a tenant is billed for, and what it is shown of refusals.
type Meter interface {
	Stored(id tenant.ID, samples, bytes int)
	Refused(id tenant.ID, first *wire.UserError, counts []wire.RefusalCount)
}

// unmetered counts nothing.
type unmetered struct{}

func (unmetered) Stored(tenant.ID, int, int)                              {}
func (unmetered) Refused(tenant.ID, *wire.UserError, []wire.RefusalCount) {}

// CountWith has a meter count. It is called before the service starts.
func (d *Distributor) CountWith(m Meter) { d.meter = m }

// New makes a distributor that writes to an ingester. Distributors that share
// work share a store; nil means that there is no other.
func New(cfg Config, ing Ingester, store HAStore, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, reg prometheus.Registerer) (*Distributor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Distributor{cfg: cfg, ingester: ing, limits: limits, logger: logger, now: time.Now, distributors: func() int { return 1 }, meter: unmetered{}, turns: newTurns(max(1, cores.Count()/2))}
	d.inflight.max = int64(cfg.MaxInflightBytes)
	d.metrics = newMetrics(reg, &d.inflight)
	d.ha = newHATracker(cfg.HA, store, logger, d.metrics.ha)
	d.metrics.observe(reg, d.ha)
	d.Service = services.NewBasicService(d.start, d.run, nil)
	return d, nil
}

// ShareLimits divides limits on rates by the number of healthy distributors, so
// that they hold for all together. It is called before the service starts.
func (d *Distributor) ShareLimits(distributors func() int) { d.distributors = distributors }

// start hears which replicas are elected before the first request comes.
func (d *Distributor) start(ctx context.Context) error {
	d.ha.hearAll(ctx)
	return nil
}

func (d *Distributor) run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { d.ha.share(ctx) })
	wg.Go(func() { d.storeHeld(ctx) })
	wg.Wait()
	return nil
}
