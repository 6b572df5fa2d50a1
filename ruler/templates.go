package ruler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"github.com/hearth-metrics/hearth/budget"
	"github.com/hearth-metrics/hearth/ruler/rulefile"
	"github.com/hearth-metrics/hearth/wire"
)

// Prometheus' package expands the templates of an alert without a bound, and
// nothing can stop it. So it never sees one: where a rule has a template it gets
// a text that asks for the result, as a query, which is what we answer. The
// templates themselves are expanded when the rule's expression has been
// evaluated, so that a rule fails whose templates take too much, and its alerts
// stay as they are. A sample says where its results are by its metric's name,
// which is no part of an alert.
const (
	askBefore = "{{ query $labels.__name__ | first | label "
	askAfter  = " }}"
	filled    = "\xff" // before the number of results; no expression begins so
)

func hideTemplate(text string) string {
	if !rulefile.IsTemplate(text) {
		return text
	}
	return askBefore + strconv.Quote(text) + askAfter
}

// showTemplate is the text that hideTemplate was given.
func showTemplate(text string) string {
	rest, ok := strings.CutPrefix(text, askBefore)
	if !ok {
		return text
	}
	shown, err := strconv.Unquote(strings.TrimSuffix(rest, askAfter))
	if err != nil {
		return text
	}
	return shown
}

// hideTemplates is the group with the templates of its alerts hidden. Labels of
// the group that are templates are so for alerts only.
func hideTemplates(g rulefmt.RuleGroup) rulefmt.RuleGroup {
	g.Rules = slices.Clone(g.Rules)
	for i, r := range g.Rules {
		if r.Alert != "" {
			g.Rules[i].Labels = hidden(g.Labels, r.Labels)
			g.Rules[i].Annotations = hidden(r.Annotations)
		}
	}
	return g
}

func hidden(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, texts := range all {
		for name, text := range texts {
			out[name] = hideTemplate(text)
		}
	}
	return out
}

func showTemplates(ls labels.Labels) labels.Labels {
	b := labels.NewBuilder(ls)
	ls.Range(func(l labels.Label) { b.Set(l.Name, showTemplate(l.Value)) })
	return b.Labels()
}

// withoutTemplates is what is recorded of an alert. Prometheus leaves a label's
// template where it comes to nothing.
func withoutTemplates(ls labels.Labels) labels.Labels {
	b := labels.NewBuilder(ls)
	ls.Range(func(l labels.Label) {
		if strings.HasPrefix(l.Value, askBefore) {
			b.Del(l.Name)
		}
	})
	return b.Labels()
}

// templates are those of a group's alerts. Rules that Prometheus does not tell
// apart have each other's, too.
type templates map[alertRule]map[string]rulefile.Template

type alertRule struct{ name, expr string }

func templatesOf(g *Group, p parser.Parser) (templates, error) {
	ts := templates{}
	for _, r := range g.Rules {
		if r.Alert == "" {
			continue
		}
		expr, err := p.ParseExpr(r.Expr)
		if err != nil {
			return nil, err
		}
		key := alertRule{r.Alert, expr.String()}
		for _, texts := range []map[string]string{g.Labels, r.Labels, r.Annotations} {
			for name, text := range texts {
				if !rulefile.IsTemplate(text) {
					continue
				}
				t, err := rulefile.ParseTemplate(r.Alert, text)
				if err != nil {
					return nil, fmt.Errorf("alert %s: %s: %w", r.Alert, name, err)
				}
				if ts[key] == nil {
					ts[key] = map[string]rulefile.Template{}
				}
				ts[key][text] = t
			}
		}
	}
	return ts, nil
}

// evaluation is one evaluation of a group, from which its queries know what it
// is about.
type evaluation struct {
	at        time.Time
	templates templates

	mu     sync.Mutex
	filled []labels.Labels // results, by the text of their template
}

type evaluationKey struct{}

// iterate evaluates a group with its templates.
func iterate(ctx context.Context, group *rules.Group, at time.Time, ts templates) {
	e := &evaluation{at: at, templates: ts}
	rules.DefaultEvalIterationFunc(context.WithValue(ctx, evaluationKey{}, e), group, at)
}

func evaluationOf(ctx context.Context) *evaluation {
	return ctx.Value(evaluationKey{}).(*evaluation)
}

// put keeps results, and returns what to ask with for them.
func (e *evaluation) put(results labels.Labels) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.filled = append(e.filled, results)
	return filled + strconv.Itoa(len(e.filled)-1)
}

// filledIn answers those who ask for results.
func (e *evaluation) filledIn(expr string) (promql.Vector, bool) {
	number, ok := strings.CutPrefix(expr, filled)
	if !ok {
		return nil, false
	}
	i, err := strconv.Atoi(number)
	if err != nil {
		panic(fmt.Sprintf("BUG: a query for %q", expr))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return promql.Vector{{Metric: e.filled[i]}}, true
}

// fillIn expands the templates of the rule whose expression gave these samples.
func (g *runner) fillIn(ctx context.Context, e *evaluation, v promql.Vector) (promql.Vector, error) {
	rule := rules.FromOriginContext(ctx)
	ts := e.templates[alertRule{rule.Name, rule.Query}]
	if rule.Kind != rules.KindAlerting || len(ts) == 0 {
		return v, nil
	}
	x := &rulefile.Expansion{Budget: g.purse, Query: g.askInTemplate, At: e.at, ExternalURL: g.r.externalURL}
	for i := range v {
		alert, results := v[i].Metric.Map(), map[string]string{}
		for text, t := range ts {
			result, err := x.Expand(ctx, t, alert, v[i])
			if errors.Is(err, budget.ErrTooMuch) {
				g.r.metrics.templates.Inc()
				return nil, wire.Errorf(wire.Limited, "err-rule-template",
					"the templates of alert %q are not filled in, %s. Shorten them, query less in them, or have the expression give fewer series", rule.Name, err)
			}
			if err != nil {
				result = fmt.Sprintf("<error expanding template: %s>", err) // as Prometheus does
			}
			results[text] = result
		}
		b := labels.NewBuilder(v[i].Metric)
		v[i].Metric = b.Set(model.MetricNameLabel, e.put(labels.FromMap(results))).Labels()
	}
	return v, nil
}

// What a query in a template costs, and what it may give: functions sort it.
const (
	queryCost  = 64 << 10
	sampleCost = 64
	maxSamples = 10_000
)

// askInTemplate is ask for a template. The tenant's limits of queries hold, too.
func (g *runner) askInTemplate(ctx context.Context, expr string, at time.Time) (promql.Vector, error) {
	if err := g.purse.Spend(queryCost); err != nil {
		return nil, err
	}
	v, err := g.ask(ctx, expr, at)
	if err != nil {
		return nil, err
	}
	if len(v) > maxSamples {
		return nil, fmt.Errorf("%w: a query gives %d series, the limit in a template is %d", budget.ErrTooMuch, len(v), maxSamples)
	}
	return v, g.purse.Spend(sampleCost * len(v))
}
