// Package distributor is IN 1: it accepts what senders push. A request comes in
// as compressed bytes; it is decoded in place, validated series by series
// against the tenant's limits, and what is good goes on to the ingester that
// owns it. The good part of a request is stored, the bad part is reported.
//
// Start reading at push.go, then validate.go and limit.go.
package distributor

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Ingester stores requests durably. It only reads r, and does not keep it.
type Ingester interface {
	Push(ctx context.Context, id tenant.ID, r *wire.Request) (wire.Pushed, error)
}

// Distributor is the door for writes. It is safe for concurrent use and holds
// no data.
type Distributor struct {
	cfg      Config
	ingester Ingester
	limits   func(tenant.ID) *tenant.Limits
	logger   *slog.Logger
	metrics  *metrics
	rates    rates
	inflight inflight
	now      func() time.Time
}

// New makes a distributor that writes to an ingester.
func New(cfg Config, ing Ingester, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, reg prometheus.Registerer) (*Distributor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Distributor{cfg: cfg, ingester: ing, limits: limits, logger: logger, now: time.Now}
	d.inflight.max = int64(cfg.MaxInflightBytes)
	d.metrics = newMetrics(reg, &d.inflight)
	return d, nil
}
