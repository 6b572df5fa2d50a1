package ruler

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/hearth-metrics/hearth/budget"
	"github.com/hearth-metrics/hearth/ruler/rulefile"
	"github.com/hearth-metrics/hearth/tenant"
)

const (
	resendDelay      = time.Minute     // alerts that fire are told again so often
	outageTolerance  = time.Hour       // alerts are taken over that were active not longer ago than this
	rulesAtOnce      = 4               // of one group, where they do not depend on each other
	takeOverRetry    = 2 * time.Second // at first; up to the group's interval
	takeOverPatience = 10 * time.Minute
)

// runner evaluates one group. It has a Prometheus rule manager of its own, so
// that a group can move to another ruler alone: a manager that stops leaves
// everything as it is, one that loses a group ends the group's series.
type runner struct {
	r       *Ruler
	id      tenant.ID
	name    groupName
	slots   chan struct{}
	purse   *budget.Budget // of the tenant's templates
	manager *rules.Manager
	done    chan struct{} // closed when the manager has ended

	want  atomic.Pointer[Group]
	hurry atomic.Bool // somebody waits for the evaluation to end

	mu    sync.Mutex // one change at a time
	have  *Group
	ended bool

	// Of the goroutine that evaluates.
	takenOver bool
	last      time.Time

	unavailable atomic.Bool // data could not be read since this was last false
}

func newRunner(work context.Context, r *Ruler, id tenant.ID, name groupName, t *tenantRules) *runner {
	g := &runner{r: r, id: id, name: name, slots: t.slots, purse: t.purse, done: make(chan struct{})}
	g.manager = rules.NewManager(&rules.ManagerOptions{
		NameValidationScheme: model.UTF8Validation,
		ExternalURL:          r.externalURL,
		QueryFunc:            g.query,
		NotifyFunc:           g.notify,
		Context:              tenant.WithID(work, id),
		Appendable:           appendable{g},
		Queryable:            watched{g},
		Logger:               slog.New(quiet{r.logger.With("tenant", id).Handler()}),
		OutageTolerance:      outageTolerance,
		ForGracePeriod:       0, // an alert that was about to fire when it moved does not wait again
		ResendDelay:          resendDelay,
		GroupLoader:          g,
		DefaultRuleQueryOffset: func() time.Duration {
			return time.Duration(r.Limits(id).RuleQueryOffset)
		},
		ConcurrentEvalsEnabled: true,
		MaxConcurrentEvals:     rulesAtOnce,
		Metrics:                r.perGroup,
		Parser:                 r.Parser,
	})
	r.runners.Go(func() {
		defer close(g.done)
		g.manager.Run()
	})
	return g
}

// file is what Prometheus takes for the group's file. With the tenant in it
// groups of the same name are spread in time.
func (g *runner) file() string { return string(g.id) + "/" + g.name.namespace }

// become has the group be def from its next evaluation on. It does not wait.
func (g *runner) become(def *Group) {
	if have := g.want.Swap(def); have != nil && rulefile.Equal(have, def) {
		return
	}
	g.hurry.Store(true)
	g.r.runners.Go(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if want := g.want.Load(); want != g.have && !g.ended {
			g.have = want
			g.load()
		}
		g.hurry.Store(false)
	})
}

// load has what we have be evaluated.
func (g *runner) load() {
	ts, err := templatesOf(g.have, g.r.Parser)
	if err == nil {
		err = g.update([]string{g.file()}, func(ctx context.Context, group *rules.Group, at time.Time) { g.evaluate(ctx, group, at, ts) })
	}
	if err != nil {
		g.r.logger.Error("rule group not loaded", "tenant", g.id, "namespace", g.name.namespace, "group", g.name.group, "err", err)
	}
}

func (g *runner) update(files []string, evaluate rules.GroupEvalIterationFunc) error {
	return g.manager.Update(time.Duration(g.r.cfg.EvaluationInterval), files, labels.EmptyLabels(), g.r.cfg.ExternalURL, evaluate)
}

// stop ends the evaluation and nothing else.
func (g *runner) stop() {
	g.hurry.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.manager.Stop()
	<-g.done
	g.forgetMetrics()
}

// end is for a group that does not exist any more: its series end, too, after
// two intervals in which a group of another name may go on with them. At a stop
// of the process they just cease.
func (g *runner) end() {
	g.hurry.Store(true)
	g.mu.Lock()
	g.ended = true
	_ = g.update(nil, nil) // there is nothing to load that could fail
	g.mu.Unlock()
	interval := time.Duration(g.want.Load().Interval)
	if interval == 0 {
		interval = time.Duration(g.r.cfg.EvaluationInterval)
	}
	select {
	case <-time.After(2*interval + endGrace):
	case <-g.r.stopping:
	}
	g.stop()
}

// endGrace is for the last write of a group that has ended.
const endGrace = 10 * time.Second

// Load implements rules.GroupLoader: the file has this one group.
func (g *runner) Load(string, bool, model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	return &rulefmt.RuleGroups{Groups: []rulefmt.RuleGroup{hideTemplates(g.have.RuleGroup)}}, nil
}

// Parse implements rules.GroupLoader.
func (g *runner) Parse(expr string) (parser.Expr, error) { return g.r.Parser.ParseExpr(expr) }

// evaluate is one evaluation of the group.
func (g *runner) evaluate(ctx context.Context, group *rules.Group, at time.Time, ts templates) {
	began := time.Now()
	g.r.metrics.lag.Observe(began.Sub(at).Seconds())
	if missed := at.Sub(g.last)/group.Interval() - 1; !g.last.IsZero() && missed > 0 {
		g.r.metrics.missed.Add(float64(missed))
	}
	g.last = at
	if g.takenOver {
		iterate(ctx, group, at, ts)
	} else {
		g.takenOver = g.takeOver(ctx, group, at, ts)
	}
	g.r.metrics.duration.Observe(time.Since(began).Seconds())
}

// takeOver evaluates a group for the first time here. Its alerts may have been
// pending or firing elsewhere: they are evaluated, given the times that are
// stored, and evaluated again, so that those that fire go on without a gap. All
// that Prometheus waits a second evaluation for, that targets were scraped, is
// so here. While the data cannot be read nothing is decided.
func (g *runner) takeOver(ctx context.Context, group *rules.Group, at time.Time, ts templates) bool {
	began, retry := time.Now(), takeOverRetry
	for {
		g.unavailable.Store(false)
		iterate(ctx, group, at, ts)
		if !g.unavailable.Load() {
			group.RestoreForState(at)
		}
		if !g.unavailable.Load() {
			break
		}
		if time.Since(began) > takeOverPatience { // perhaps it is one expression alone
			break
		}
		g.r.metrics.restores.WithLabelValues("failure").Inc()
		for _, a := range group.AlertingRules() {
			a.SetRestored(false)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, group.Interval())
		if g.hurry.Load() || ctx.Err() != nil {
			return false
		}
		at = group.EvalTimestamp(time.Now().UnixNano())
	}
	g.r.metrics.restores.WithLabelValues("success").Inc()
	for _, a := range group.AlertingRules() {
		if a.ActiveAlertsCount() > 0 {
			iterate(ctx, group, at, ts)
			break
		}
	}
	return true
}

func (g *runner) forgetMetrics() {
	key, m := rules.GroupKey(g.file(), g.name.group), g.r.perGroup
	m.IterationsMissed.DeleteLabelValues(key)
	m.IterationsScheduled.DeleteLabelValues(key)
	m.EvalTotal.DeleteLabelValues(key)
	m.EvalFailures.DeleteLabelValues(key)
	m.GroupInterval.DeleteLabelValues(key)
	m.GroupLastEvalTime.DeleteLabelValues(key)
	m.GroupLastDuration.DeleteLabelValues(key)
	m.GroupRules.DeleteLabelValues(key)
	m.GroupSamples.DeleteLabelValues(key)
	m.GroupLastRuleDurationSum.DeleteLabelValues(key)
	m.GroupLastRestoreDuration.DeleteLabelValues(key)
}

// watched is the tenant's data. It notes where alerts could not be read, which
// Prometheus' package only logs.
type watched struct{ g *runner }

func (w watched) Querier(minT, maxT int64) (storage.Querier, error) {
	q, err := w.g.r.Data.Querier(minT, maxT)
	if err != nil {
		w.g.unavailable.Store(true)
		return nil, err
	}
	return watchedQuerier{q, w.g}, nil
}

type watchedQuerier struct {
	storage.Querier
	g *runner
}

func (q watchedQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return watchedSet{q.Querier.Select(ctx, sorted, hints, ms...), q.g}
}

type watchedSet struct {
	storage.SeriesSet
	g *runner
}

func (s watchedSet) Next() bool {
	if s.SeriesSet.Next() {
		return true
	}
	_ = s.Err()
	return false
}

func (s watchedSet) Err() error {
	err := s.SeriesSet.Err()
	if isUnavailable(err) {
		s.g.unavailable.Store(true)
	}
	return err
}
