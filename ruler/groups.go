package ruler

import (
	"slices"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/hearth-metrics/hearth/ruler/rulefile"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Group is a group of rules, as in a rule file.
type Group = rulefile.Group

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

// apply makes a change, and says whether anything is different. What is deleted
// goes first, so that what takes its place counts once.
func (d *Document) apply(l *tenant.Limits, c rulefile.Change) (changed bool, err error) {
	for namespace, groups := range c.Delete {
		for _, group := range groups {
			changed = d.remove(namespace, group) || changed
		}
	}
	for namespace, groups := range c.Set {
		for i := range groups {
			g := groups[i]
			if old, ok := d.find(namespace, g.Name); ok && rulefile.Equal(&old, &g) {
				continue
			}
			d.set(namespace, g)
			changed = true
			if err := admit(l, d, &g); err != nil {
				return false, err
			}
		}
	}
	return changed, nil
}

// parseGroup reads the body of a request.
func parseGroup(text []byte, p parser.Parser) (Group, error) {
	g, err := rulefile.ParseGroup(text, p)
	if err != nil {
		return Group{}, invalid(err.Error())
	}
	return g, nil
}

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
