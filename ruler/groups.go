package ruler

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Group is a group of rules, as in a rule file of Prometheus.
type Group = rulefmt.RuleGroup

// Document is all rules of a tenant, as they are stored.
type Document struct {
	Version    int                `yaml:"version"` // of the first there was: 1
	At         time.Time          `yaml:"at"`      // when it was written
	Namespaces map[string][]Group `yaml:"namespaces"`
}

// groups is how many groups there are.
func (d *Document) groups() int {
	n := 0
	for _, gs := range d.Namespaces {
		n += len(gs)
	}
	return n
}

func (d *Document) find(namespace, group string) (Group, bool) {
	for _, g := range d.Namespaces[namespace] {
		if g.Name == group {
			return g, true
		}
	}
	return Group{}, false
}

// set adds a group, or replaces the one of its name where it stands.
func (d *Document) set(namespace string, g Group) {
	if d.Namespaces == nil {
		d.Namespaces = map[string][]Group{}
	}
	gs := slices.Clone(d.Namespaces[namespace])
	if i := slices.IndexFunc(gs, func(o Group) bool { return o.Name == g.Name }); i >= 0 {
		gs[i] = g
	} else {
		gs = append(gs, g)
	}
	d.Namespaces[namespace] = gs
}

// remove says whether there was such a group. A namespace goes with its last.
func (d *Document) remove(namespace, group string) bool {
	gs := slices.DeleteFunc(slices.Clone(d.Namespaces[namespace]), func(g Group) bool { return g.Name == group })
	if len(gs) == len(d.Namespaces[namespace]) {
		return false
	}
	d.Namespaces[namespace] = gs
	if len(gs) == 0 {
		delete(d.Namespaces, namespace)
	}
	return true
}

// maxProblems bounds what is told of a group that is wrong.
const maxProblems = 10

// parseGroup reads one group in YAML and checks it as Prometheus does: unknown
// fields, names, expressions and templates. The error names lines of the text.
func parseGroup(text []byte, p parser.Parser) (Group, error) {
	var g Group
	var nodes struct {
		Rules []rulefmt.RuleNode `yaml:"rules"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	switch err := dec.Decode(&g); {
	case errors.Is(err, io.EOF):
		return Group{}, invalid("the body is empty, send one rule group in YAML")
	case err != nil:
		return Group{}, invalid(err.Error())
	}
	if err := dec.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return Group{}, invalid("there is more than one YAML document, send one rule group")
	}
	if err := yaml.Unmarshal(text, &nodes); err != nil {
		return Group{}, invalid(err.Error())
	}
	problems := checkGroup(&g)
	for i := range g.Rules {
		r := &g.Rules[i]
		for _, e := range r.Validate(nodes.Rules[i], model.UTF8Validation, p) {
			problems = append(problems, fmt.Sprintf("rule %d, %q: %s", i+1, r.Alert+r.Record, e.Error()))
		}
	}
	if len(problems) > maxProblems {
		problems = append(problems[:maxProblems], fmt.Sprintf("and %d more", len(problems)-maxProblems))
	}
	if len(problems) > 0 {
		return Group{}, invalid(strings.Join(problems, "; "))
	}
	return g, nil
}

// checkGroup is what Prometheus checks of a group besides its rules, and what
// it would stumble over when it runs it.
func checkGroup(g *Group) (problems []string) {
	switch {
	case g.Name == "":
		problems = append(problems, "the group has no name")
	case len(g.Rules) == 0:
		problems = append(problems, "the group has no rules")
	}
	if g.Interval < 0 || g.Limit < 0 {
		problems = append(problems, "interval and limit must not be negative")
	}
	if g.Interval > 0 && time.Duration(g.Interval) < minInterval {
		problems = append(problems, fmt.Sprintf("the interval is %s, the least is %s", g.Interval, model.Duration(minInterval)))
	}
	for name, value := range g.Labels {
		if !model.UTF8Validation.IsValidLabelName(name) || name == model.MetricNameLabel || !model.LabelValue(value).IsValid() {
			problems = append(problems, fmt.Sprintf("the group's label %q is not valid", name))
		}
	}
	return problems
}

// minInterval keeps one group from being evaluated without a pause.
const minInterval = time.Second

func invalid(problem string) error {
	return wire.Errorf(wire.Invalid, "err-rules-invalid", "invalid rule group: %s", problem)
}

// admit checks a document against the tenant's limits, after a group was put
// into it.
func admit(l *tenant.Limits, d *Document, g *Group) error {
	if n := len(g.Rules); l.MaxRulesPerGroup > 0 && n > l.MaxRulesPerGroup {
		return wire.Errorf(wire.Invalid, "err-max-rules-per-group",
			"group %q has %d rules, the limit is %d (max_rules_per_group). Divide it, or ask for a higher limit", g.Name, n, l.MaxRulesPerGroup)
	}
	if n := d.groups(); l.MaxRuleGroups > 0 && n > l.MaxRuleGroups {
		return wire.Errorf(wire.Invalid, "err-max-rule-groups",
			"this would be rule group %d of %d (limit max_rule_groups). Delete or join groups, or ask for a higher limit", n, l.MaxRuleGroups)
	}
	if l.MinRuleInterval > 0 && g.Interval > 0 && g.Interval < l.MinRuleInterval {
		return wire.Errorf(wire.Invalid, "err-min-rule-interval",
			"group %q has the interval %s, the limit is %s (min_rule_evaluation_interval). Evaluate it less often, or ask for a lower limit", g.Name, g.Interval, l.MinRuleInterval)
	}
	return nil
}

// equal says whether two groups are written the same.
func equal(a, b *Group) bool {
	ta, errA := yaml.Marshal(a)
	tb, errB := yaml.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(ta, tb)
}
