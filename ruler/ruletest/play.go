package ruletest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

// run is one test of a file while it is played.
type run struct {
	*group
	file  *file
	order map[string]int // of groups, those that are not named first
	rules loader

	data   *promqltest.LazyLoader
	groups []*rules.Group
	start  time.Time
}

// play evaluates the rules from the start to the last expectation, and compares
// as it goes.
func (r *run) play() (errs []error) {
	if err := r.validate(); err != nil {
		return []error{err}
	}
	var err error
	r.data, err = promqltest.NewLazyLoader(r.input(), promqltest.LazyLoaderOpts{
		EnableAtModifier: true, EnableNegativeOffset: true, StartTime: r.StartTimestamp.Time,
	})
	if err != nil {
		return []error{err}
	}
	defer func() { errs = append(errs, closed(r.data)...) }()
	r.data.SubqueryInterval = time.Duration(r.file.EvaluationInterval)
	if errs := r.load(); errs != nil {
		return errs
	}
	if r.start = r.StartTimestamp.Time; r.start.IsZero() {
		r.start = time.Unix(0, 0).UTC()
	}
	interval := time.Duration(r.file.EvaluationInterval)
	end := r.start.Add(r.last())
	for at := r.start; !at.After(end); at = at.Add(interval) {
		if failed := r.evaluate(at); len(failed) > 0 {
			return append(errs, failed...)
		}
		for _, t := range r.AlertTests {
			if due := r.start.Add(time.Duration(t.EvalTime)); !due.Before(at) && due.Before(at.Add(interval)) {
				errs = append(errs, r.compareAlerts(t)...)
			}
		}
	}
	for _, t := range r.ExprTests {
		if err := r.compareSamples(t); err != nil {
			errs = append(errs, fmt.Errorf("expr: %q, time: %s, %w", t.Expr, t.EvalTime, err))
		}
	}
	return errs
}

func closed(data *promqltest.LazyLoader) []error {
	if err := data.Close(); err != nil {
		return []error{err}
	}
	return nil
}

// load reads the rules.
func (r *run) load() []error {
	m := rules.NewManager(&rules.ManagerOptions{
		NameValidationScheme: model.UTF8Validation,
		QueryFunc:            rules.EngineQueryFunc(r.data.QueryEngine(), r.data.Storage()),
		Appendable:           r.data.Storage(),
		Context:              context.Background(),
		NotifyFunc:           func(context.Context, string, ...*rules.Alert) {},
		Logger:               slog.New(slog.DiscardHandler),
		GroupLoader:          r.rules,
		Parser:               r.rules.Parser,
	})
	byKey, errs := m.LoadGroups(time.Duration(r.Interval), r.ExternalLabels, r.ExternalURL, nil, false, slices.Sorted(maps.Keys(r.rules.documents))...)
	if errs != nil {
		return errs
	}
	for _, g := range byKey {
		r.groups = append(r.groups, g)
		for _, a := range g.AlertingRules() {
			a.SetRestored(true) // there is nothing before: ALERTS is written from the start
		}
	}
	slices.SortFunc(r.groups, func(a, b *rules.Group) int {
		return cmp.Or(cmp.Compare(r.order[a.Name()], r.order[b.Name()]), cmp.Compare(a.File()+a.Name(), b.File()+b.Name()))
	})
	return nil
}

// evaluate evaluates all groups once.
func (r *run) evaluate(at time.Time) (errs []error) {
	r.data.WithSamplesTill(at, func(err error) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		for _, g := range r.groups {
			g.Eval(r.data.Context(), at)
			for _, rule := range g.Rules() {
				if err := rule.LastError(); err != nil {
					errs = append(errs, fmt.Errorf("rule: %s, time: %s, err: %w", rule.Name(), model.Duration(at.Sub(r.start)), err))
				}
			}
		}
	})
	return errs
}

// compareAlerts compares what fires of one name now.
func (r *run) compareAlerts(t alertTest) []error {
	var want, got []string
	for _, g := range r.groups {
		for _, rule := range g.AlertingRules() {
			for _, a := range rule.ActiveAlerts() {
				if rule.Name() == t.Alertname && a.State == rules.StateFiring {
					got = append(got, alertText(a.Labels, a.Annotations))
				}
			}
		}
	}
	for _, a := range t.ExpAlerts {
		b := labels.NewBuilder(labels.FromMap(a.Labels))
		b.Set(labels.AlertName, t.Alertname) // an evaluation adds it
		want = append(want, alertText(b.Labels(), labels.FromMap(a.Annotations)))
	}
	slices.Sort(want)
	slices.Sort(got)
	if slices.Equal(want, got) {
		return nil
	}
	return []error{fmt.Errorf("alertname: %s, time: %s,\n    exp: %s\n    got: %s", t.Alertname, t.EvalTime, list(want), list(got))}
}

func alertText(ls, as labels.Labels) string {
	return "labels: " + ls.String() + ", annotations: " + as.String()
}

func list(texts []string) string {
	if len(texts) == 0 {
		return "nothing"
	}
	return strings.Join(texts, "\n         ")
}

// value is one sample of an answer.
type value struct {
	labels    labels.Labels
	f         float64
	histogram string
}

func (v value) String() string {
	if v.histogram != "" {
		return v.labels.String() + " " + v.histogram
	}
	return v.labels.String() + " " + strconv.FormatFloat(v.f, 'E', -1, 64)
}

// compareSamples compares the answer to a query.
func (r *run) compareSamples(t exprTest) error {
	got, err := r.query(t)
	if err != nil {
		return err
	}
	want, err := r.expected(t)
	if err != nil {
		return err
	}
	byLabels := func(a, b value) int { return labels.Compare(a.labels, b.labels) }
	slices.SortStableFunc(want, byLabels)
	slices.SortStableFunc(got, byLabels)
	same := func(a, b value) bool {
		return labels.Equal(a.labels, b.labels) && a.histogram == b.histogram && r.file.sameFloat(a.f, b.f)
	}
	if slices.EqualFunc(want, got, same) {
		return nil
	}
	return fmt.Errorf("\n    exp: %s\n    got: %s", list(texts(want)), list(texts(got)))
}

func texts(values []value) (out []string) {
	for _, v := range values {
		out = append(out, v.String())
	}
	return out
}

// sameFloat says whether two numbers are equal; with fuzzy_compare the next one
// is, too.
func (f *file) sameFloat(a, b float64) bool {
	return a == b || f.FuzzyCompare && (math.Nextafter(a, math.Inf(-1)) == b || math.Nextafter(a, math.Inf(1)) == b)
}

func (r *run) query(t exprTest) ([]value, error) {
	q, err := r.data.QueryEngine().NewInstantQuery(r.data.Context(), r.data.Queryable(), nil, t.Expr, r.start.Add(time.Duration(t.EvalTime)))
	if err != nil {
		return nil, fmt.Errorf("err: %w", err)
	}
	defer q.Close()
	res := q.Exec(r.data.Context())
	if res.Err != nil {
		return nil, fmt.Errorf("err: %w", res.Err)
	}
	var out []value
	switch v := res.Value.(type) {
	case promql.Vector:
		for _, s := range v {
			out = append(out, value{s.Metric.Copy(), s.F, promqltest.HistogramTestExpression(s.H)})
		}
	case promql.Scalar:
		out = append(out, value{f: v.V})
	default:
		return nil, errors.New("err: the result is neither a vector nor a scalar")
	}
	return out, nil
}

func (r *run) expected(t exprTest) ([]value, error) {
	var out []value
	for _, s := range t.ExpSamples {
		ls, err := r.rules.ParseMetric(s.Labels)
		if err != nil {
			return nil, fmt.Errorf("labels %q: %w", s.Labels, err)
		}
		v := value{labels: ls, f: s.Value}
		if s.Histogram != "" {
			_, values, err := r.rules.ParseSeriesDesc("{} " + s.Histogram)
			if err != nil {
				return nil, fmt.Errorf("histogram %q: %w", s.Histogram, err)
			}
			if len(values) != 1 || values[0].Histogram == nil {
				return nil, fmt.Errorf("histogram %q: want one histogram", s.Histogram)
			}
			v.f, v.histogram = 0, promqltest.HistogramTestExpression(values[0].Histogram)
		}
		out = append(out, v)
	}
	return out, nil
}
