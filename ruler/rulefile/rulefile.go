// Package rulefile is the SCORE: what rules look like when they are written
// down, in a request or in a file.
//
// In comes YAML, one group as the API takes it or a whole rule file of
// Prometheus, with a namespace as mimirtool and cortextool have it or without;
// out go groups, or errors that name the line. What it accepts is what a ruler
// accepts, because a ruler asks it too. Start reading at Group, then ParseGroup
// and Read.
package rulefile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v3"
)

// Group is a group of rules, as in a rule file of Prometheus.
type Group struct {
	rulefmt.RuleGroup `yaml:",inline"`

	// SourceTenants are those whose data the rules read; empty: the tenant whose
	// rules they are. What they record is always that one's.
	SourceTenants []string `yaml:"source_tenants,omitempty"`
}

// MinInterval keeps one group from being evaluated without a pause.
const MinInterval = time.Second

// maxProblems bounds what is told of a group that is wrong.
const maxProblems = 10

// Equal says whether two groups are written the same.
func Equal(a, b *Group) bool {
	ta, errA := yaml.Marshal(a)
	tb, errB := yaml.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(ta, tb)
}

// groupNodes has the lines of a group's rules.
type groupNodes struct {
	Rules []rulefmt.RuleNode `yaml:"rules"`
}

// ParseGroup reads one group in YAML and checks it as Prometheus does: unknown
// fields, names, expressions and templates. The error names lines of the text.
func ParseGroup(text []byte, p parser.Parser) (Group, error) {
	var g Group
	var nodes groupNodes
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	switch err := dec.Decode(&g); {
	case errors.Is(err, io.EOF):
		return Group{}, errors.New("the body is empty, send one rule group in YAML")
	case err != nil:
		return Group{}, err
	}
	if err := dec.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return Group{}, errors.New("there is more than one YAML document, send one rule group")
	}
	if err := yaml.Unmarshal(text, &nodes); err != nil {
		return Group{}, err
	}
	return g, joined(check(&g, nodes, p))
}

// joined is an error that tells the first of some problems; nil for none.
func joined(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	if more := len(problems) - maxProblems; more > 0 {
		problems = append(problems[:maxProblems], fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(problems, "; "))
}

// What is longer is not read: parsers take much longer for what is nested than
// for what people write.
const (
	maxText  = 16 << 10 // bytes of one expression, label or annotation
	maxTexts = 1 << 20  // of all of a group, each alias counted as what it stands for
)

// checkSize is what is too large in a group to be looked at.
func checkSize(g *Group) (problems []string) {
	total := 0
	for i, r := range g.Rules {
		largest := 0
		add := func(s string) { total, largest = total+len(s), max(largest, len(s)) }
		add(r.Expr)
		for _, texts := range []map[string]string{r.Labels, r.Annotations} {
			for name, text := range texts {
				add(name)
				add(text)
			}
		}
		if largest > maxText {
			problems = append(problems, fmt.Sprintf("rule %d has a text of %d bytes, the limit is %d", i+1, largest, maxText))
		}
	}
	if total > maxTexts {
		problems = append(problems, fmt.Sprintf("the rules have %d bytes in all, the limit is %d: divide the group", total, maxTexts))
	}
	return problems
}

// check is what is wrong with a group.
func check(g *Group, nodes groupNodes, p parser.Parser) []string {
	if problems := checkSize(g); len(problems) > 0 {
		return problems
	}
	problems := checkHead(g)
	trial := noData()
	for i := range g.Rules {
		r := &g.Rules[i]
		invalid := r.Validate(nodes.Rules[i], model.UTF8Validation, p)
		for _, e := range invalid {
			problems = append(problems, fmt.Sprintf("rule %d, %q: %s", i+1, r.Alert+r.Record, e.Error()))
		}
		if len(invalid) > 0 || r.Alert == "" {
			continue
		}
		if err := tryTemplates(g, r, trial); err != nil {
			// What is left of the trial's budget would blame those that follow.
			return append(problems, fmt.Sprintf("rule %d, %q: %d:%d: %s", i+1, r.Alert, nodes.Rules[i].Alert.Line, nodes.Rules[i].Alert.Column, err))
		}
	}
	return problems
}

// checkHead is what Prometheus checks of a group besides its rules, and what it
// would stumble over when it runs it.
func checkHead(g *Group) (problems []string) {
	switch {
	case g.Name == "":
		problems = append(problems, "the group has no name")
	case len(g.Rules) == 0:
		problems = append(problems, "the group has no rules")
	}
	if g.Interval < 0 || g.Limit < 0 {
		problems = append(problems, "interval and limit must not be negative")
	}
	if g.Interval > 0 && time.Duration(g.Interval) < MinInterval {
		problems = append(problems, fmt.Sprintf("the interval is %s, the least is %s", g.Interval, model.Duration(MinInterval)))
	}
	for name, value := range g.Labels {
		if !model.UTF8Validation.IsValidLabelName(name) || name == model.MetricNameLabel || !model.LabelValue(value).IsValid() {
			problems = append(problems, fmt.Sprintf("the group's label %q is not valid", name))
		}
	}
	return problems
}

// Series is a metric and labels that a rule gives.
type Series struct {
	Name   string
	Labels labels.Labels
}

// Duplicates are what more than one rule of a file gives, so that it depends on
// chance which of them counts.
func Duplicates(groups []Group) []Series {
	var all, out []Series
	for _, g := range groups {
		for _, r := range g.Rules {
			all = append(all, Series{r.Alert + r.Record, rules.FromMaps(g.Labels, r.Labels)})
		}
	}
	compare := func(a, b Series) int { return cmp.Or(cmp.Compare(a.Name, b.Name), labels.Compare(a.Labels, b.Labels)) }
	slices.SortFunc(all, compare)
	for i := 1; i < len(all); i++ {
		again := compare(all[i-1], all[i]) == 0
		if again && (len(out) == 0 || compare(out[len(out)-1], all[i]) != 0) {
			out = append(out, all[i])
		}
	}
	return out
}
