// Package querier is OUT 1: the Prometheus query API over recent and stored
// data.
//
// In comes an HTTP request of a tenant; out goes exactly what a Prometheus
// with that tenant's data would answer, or an error. Recent data comes from a
// Recent (the ingester), older data from a Stored (the store gateway); either
// failing fails the query, it never answers with silently less. What one
// tenant may ask is bounded (limits.go), and tenants take turns (queue.go).
//
// Start reading at RegisterRoutes in http.go; then api.go mounts Prometheus'
// own handlers, eval.go its engine, select.go divides a selector into recent
// and stored, merge.go joins the two. Remote read has its own door, read.go.
package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/hearth-metrics/hearth/tenant"
)

// Recent is where the newest data is. mint and maxt are inclusive. The
// queriers are closed by the caller and used by one goroutine at a time; what
// they return in order (a sorted Select, label names and values) is merged
// with stored data by that order. Errors that are wire.UserErrors reach the
// tenant as they are, the text of others does not.
type Recent interface {
	// Querier also returns the blocks that it has searched itself and that
	// need not be read from the bucket.
	Querier(ctx context.Context, id tenant.ID, mint, maxt int64) (q storage.Querier, held []ulid.ULID, err error)

	// ChunkQuerier is Querier for chunks.
	ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64) (q storage.ChunkQuerier, held []ulid.ULID, err error)

	// ExemplarQuerier searches the tenant's exemplars.
	ExemplarQuerier(ctx context.Context, id tenant.ID) (storage.ExemplarQuerier, error)

	// Metadata is what is known of a metric, or of all with metric "". limit
	// bounds the metrics, limitPerMetric what each has; negative: no limit.
	Metadata(ctx context.Context, id tenant.ID, metric string, limit, limitPerMetric int) (map[string][]metadata.Metadata, error)
}

// Stored is where blocks are read. The rules are those of Recent. skip names
// blocks that need no search. A Querier for a time without blocks is best a
// storage.NoopQuerier: then nothing is merged and recent data need not be
// sorted.
type Stored interface {
	Querier(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.Querier, error)
	ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.ChunkQuerier, error)
}

// stopWait bounds the wait for queries that were cancelled because we stop.
const stopWait = 30 * time.Second

// Querier answers queries. It is a service: stopping it cancels queries that
// still run and waits for them.
type Querier struct {
	services.Service

	cfg     Config
	recent  Recent
	stored  Stored
	limits  func(tenant.ID) *tenant.Limits
	logger  *slog.Logger
	metrics *metrics
	queue   *queue
	parser  parser.Parser
	engine  *engine
	meter   Meter
	beside  func() Beside
}

// Beside is what else answers at the address of the query API, here or in other
// processes. Clients ask for it by status/buildinfo.
type Beside struct {
	Rules  bool // a ruler, with rules that can be written
	Alerts bool // an alertmanager, with configurations that can be written
}

// TellOf has status/buildinfo tell of others. It is called before the service
// starts, beside on each request.
func (q *Querier) TellOf(beside func() Beside) { q.beside = beside }

// Meter counts what a tenant is billed for.
type Meter interface {
	Queried(id tenant.ID)
	Read(id tenant.ID, series, samples int)
	Answered(id tenant.ID, bytes int)
}

// unmetered counts nothing.
type unmetered struct{}

func (unmetered) Queried(tenant.ID)        {}
func (unmetered) Read(tenant.ID, int, int) {}
func (unmetered) Answered(tenant.ID, int)  {}

// CountWith has a meter count. It is called before the service starts.
func (q *Querier) CountWith(m Meter) { q.meter = m }

// New makes a Querier. limits is called on each query.
func New(cfg Config, recent Recent, stored Stored, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, reg prometheus.Registerer) (*Querier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("querier: %w", err)
	}
	q := &Querier{
		cfg:    cfg,
		recent: recent,
		stored: stored,
		limits: limits,
		logger: logger,
		queue:  newQueue(cfg.slots()),
		parser: NewParser(),
		meter:  unmetered{},
		beside: func() Beside { return Beside{} },
	}
	q.metrics = newMetrics(reg, q.queue)
	q.engine = &engine{
		q:         q,
		opts:      engineOpts(cfg, q.parser, logger),
		bySamples: map[int]*promql.Engine{},
	}
	q.Service = services.NewBasicService(nil, untilStopped, q.stop)
	return q, nil
}

// Queryable is all data of the tenant that a Select's context names, under the
// tenant's limits. It does not wait in the queue.
func (q *Querier) Queryable() storage.SampleAndChunkQueryable { return queryable{q} }

// Engine is Prometheus' engine under the limits of the tenant that the context
// of a query names, when it is made as when it is executed.
func (q *Querier) Engine() promql.QueryEngine { return q.engine }

// Parser reads expressions as the engine does.
func (q *Querier) Parser() parser.Parser { return q.parser }

func untilStopped(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (q *Querier) stop(error) error {
	timer := time.NewTimer(stopWait)
	defer timer.Stop()
	select {
	case <-q.queue.close():
		return nil
	case <-timer.C:
		return errors.New("queries did not end when cancelled")
	}
}
