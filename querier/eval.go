package querier

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// maxEngines bounds the engines kept. There is one for each value that some
// tenant has as its limit of samples, so few.
const maxEngines = 64

// NewParser makes what reads expressions, with all that Hearth has switched on.
func NewParser() parser.Parser {
	return parser.NewParser(parser.Options{
		EnableExperimentalFunctions:  true,
		ExperimentalDurationExpr:     true,
		EnableExtendedRangeSelectors: true,
		EnableBinopFillModifiers:     true,
	})
}

func engineOpts(cfg Config, p parser.Parser, logger *slog.Logger) promql.EngineOpts {
	return promql.EngineOpts{
		Logger:                   logger,
		Timeout:                  time.Duration(cfg.Timeout),
		LookbackDelta:            time.Duration(cfg.LookbackDelta),
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		EnableAtModifier:         true,
		EnableNegativeOffset:     true,
		EnablePerStepStats:       true,
		EnableDelayedNameRemoval: cfg.DelayedNameRemoval,
		Parser:                   p,
	}
}

// engine is Prometheus' with the tenant's limits. The tenant is that of the
// context. It makes one Prometheus engine for each limit of samples, since
// that is a property of the engine and not of the query.
type engine struct {
	q    *Querier
	opts promql.EngineOpts

	mu        sync.Mutex
	bySamples map[int]*promql.Engine
}

var _ promql.QueryEngine = (*engine)(nil)

// NewInstantQuery implements promql.QueryEngine.
func (e *engine) NewInstantQuery(ctx context.Context, from storage.Queryable, opts promql.QueryOpts, expr string, at time.Time) (promql.Query, error) {
	return e.limited(ctx, func(ng *promql.Engine) (promql.Query, error) {
		return ng.NewInstantQuery(ctx, from, opts, expr, at)
	})
}

// NewRangeQuery implements promql.QueryEngine.
func (e *engine) NewRangeQuery(ctx context.Context, from storage.Queryable, opts promql.QueryOpts, expr string, start, end time.Time, step time.Duration) (promql.Query, error) {
	return e.limited(ctx, func(ng *promql.Engine) (promql.Query, error) {
		return ng.NewRangeQuery(ctx, from, opts, expr, start, end, step)
	})
}

func (e *engine) limited(ctx context.Context, prepare func(*promql.Engine) (promql.Query, error)) (promql.Query, error) {
	who, err := e.q.whose(ctx)
	if err != nil {
		return nil, err
	}
	l := who.limits
	qry, err := prepare(e.withMaxSamples(l.MaxSamplesPerQuery))
	if err != nil {
		return nil, err
	}
	ev := &evaluation{Query: qry, q: e.q, id: who.name(), ids: who.ids, limits: l}
	if stmt, ok := qry.Statement().(*parser.EvalStmt); ok {
		ev.refusal = e.q.checkLength(l, stmt)
	}
	return ev, nil
}

func (e *engine) withMaxSamples(n int) *promql.Engine {
	if n <= 0 {
		n = math.MaxInt
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ng := e.bySamples[n]
	if ng == nil {
		if len(e.bySamples) >= maxEngines {
			clear(e.bySamples) // running queries keep theirs
		}
		opts := e.opts
		opts.MaxSamples = n
		ng = promql.NewEngine(opts)
		e.bySamples[n] = ng
	}
	return ng
}

// evaluation is a query that knows its tenant's limits. A query over a limit
// is refused when it is executed: the API answers 422 to that, and 400 to one
// that cannot be made.
type evaluation struct {
	promql.Query
	q       *Querier
	id      tenant.ID
	ids     []tenant.ID
	limits  *tenant.Limits
	refusal error
}

func (ev *evaluation) Exec(ctx context.Context) *promql.Result {
	if ev.refusal != nil {
		return &promql.Result{Err: ev.refusal}
	}
	res := ev.Query.Exec(ctx)
	divided(ev.ids, ev.samplesRead(), func(id tenant.ID, n int) { ev.q.meter.Read(id, 0, n) })
	if res.Err != nil {
		res.Err = ev.explain(ctx, res.Err)
		return res
	}
	if err := ev.q.checkAnswer(ev.limits, answerSize(res.Value)); err != nil {
		return &promql.Result{Err: err, Warnings: res.Warnings}
	}
	return res
}

func (ev *evaluation) samplesRead() int {
	if s := ev.Query.Stats(); s != nil && s.Samples != nil {
		return int(s.Samples.TotalSamples)
	}
	return 0
}

// explain says what ended an evaluation. Errors of the data come without the
// engine's "expanding series" in front; those of the expression stay as they
// are.
func (ev *evaluation) explain(ctx context.Context, err error) error {
	var (
		ue      *wire.UserError
		samples promql.ErrTooManySamples
		storage promql.ErrStorage
	)
	switch {
	case errors.As(context.Cause(ctx), &ue): // whatever the engine calls it
		return ev.q.refineIn(ctx, ev.id, err)
	case errors.As(err, &samples):
		return ev.q.tooManySamples(ev.limits)
	case errors.As(err, &storage):
		return storage
	case errors.As(err, &ue), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ev.q.refine(ev.id, err)
	default:
		return err
	}
}
