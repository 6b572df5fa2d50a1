package rulefile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/template/parse"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"

	"github.com/hearth-metrics/hearth/budget"
)

// Template is a label or annotation of an alerting rule with what is to be
// filled in. It means what it means in Prometheus, whose functions it has, and
// spends a budget.
type Template struct {
	name string
	text string
}

// IsTemplate says whether there is anything to be filled in.
func IsTemplate(text string) bool { return strings.Contains(text, "{{") }

// variables are those that Prometheus defines.
const variables = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"

// ParseTemplate reads a text of the alerting rule of that name.
func ParseTemplate(alert, text string) (Template, error) {
	t := Template{name: "__alert_" + alert}
	main := parse.New(t.name)
	main.Mode = parse.SkipFuncCheck // Prometheus' own are looked up when it runs
	trees := map[string]*parse.Tree{}
	if _, err := main.Parse(variables+text, "", "", trees); err != nil {
		return Template{}, err
	}
	// Prometheus takes templates as texts only, so that they are written down
	// again with the steps in them.
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		tree := trees[name]
		budget.Bound(tree)
		if name != t.name {
			fmt.Fprintf(&b, "{{define %q}}%s{{end}}", name, tree.Root)
		}
	}
	if tree := trees[t.name]; tree != nil {
		b.WriteString(tree.Root.String())
	}
	t.text = b.String()
	return t, nil
}

// Expansion is what templates are expanded with, for all alerts of a rule.
type Expansion struct {
	Budget      *budget.Budget
	Query       template.QueryFunc // it bounds what it gives
	At          time.Time
	ExternalURL *url.URL
}

// Expand fills in a template for an alert. An error with budget.ErrTooMuch says
// that it was stopped; any other is the template's own, for people to see where
// they look for the text.
func (e *Expansion) Expand(ctx context.Context, t Template, alert map[string]string, value promql.Sample) (string, error) {
	data := template.AlertTemplateData(alert, map[string]string{}, e.ExternalURL.String(), value)
	x := template.NewTemplateExpander(ctx, t.text, t.name, data, model.TimeFromUnixNano(e.At.UnixNano()), e.Query, e.ExternalURL, nil)
	x.Funcs(e.Budget.Functions())
	text, err := x.Expand()
	if errors.Is(err, budget.ErrTooMuch) {
		return "", cause(err)
	}
	return text, err
}

// cause is what stopped a template, without where that was: it is in a step that
// nobody has written.
func cause(err error) error {
	for next := errors.Unwrap(err); next != nil && errors.Unwrap(next) != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err
}

// tryTemplates expands the templates of a rule as for an alert that has no
// labels, while there is no data: what does too much even then need not be
// accepted.
func tryTemplates(g *Group, r *rulefmt.Rule, e *Expansion) error {
	for _, texts := range []map[string]string{g.Labels, r.Labels, r.Annotations} {
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			if !IsTemplate(texts[name]) {
				continue
			}
			t, err := ParseTemplate(r.Alert, texts[name])
			if err == nil {
				_, err = e.Expand(context.Background(), t, map[string]string{}, promql.Sample{})
			}
			if errors.Is(err, budget.ErrTooMuch) {
				return fmt.Errorf("the template of %q: %w", name, err)
			}
		}
	}
	return nil
}

// noData is an Expansion for a trial.
func noData() *Expansion {
	return &Expansion{
		Budget:      budget.Trial(),
		Query:       func(context.Context, string, time.Time) (promql.Vector, error) { return nil, nil },
		ExternalURL: &url.URL{},
	}
}
