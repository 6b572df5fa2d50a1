package ruler

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/hearth-metrics/hearth/wire"
)

// filter is what a request wants to see of the rules. Parameters and errors are
// those of Prometheus; state and health are what Grafana adds.
type filter struct {
	names, groups, files []string
	states, health       []string
	matchers             [][]*labels.Matcher
	alerting, recording  bool
	noAlerts             bool
	limit                int // groups on a page; 0: all on one
	next                 string
}

func badParameter(name, format string, args ...any) error {
	return wire.Errorf(wire.Invalid, "err-rules-parameter", "invalid parameter %q: "+format, append([]any{name}, args...)...)
}

func (r *Ruler) parseFilter(req *http.Request) (*filter, error) {
	if err := req.ParseForm(); err != nil {
		return nil, wire.Errorf(wire.Invalid, "err-rules-parameter", "error parsing form values: %s", err)
	}
	q := req.Form
	f := &filter{
		names: q["rule_name[]"], groups: q["rule_group[]"], files: q["file[]"],
		states: slices.Concat(q["state"], q["state[]"]), health: slices.Concat(q["health"], q["health[]"]),
		next: q.Get("group_next_token"),
	}
	for _, s := range q["match[]"] {
		ms, err := r.Parser.ParseMetricSelector(s)
		if err != nil {
			return nil, badParameter("match[]", "%s", err)
		}
		f.matchers = append(f.matchers, ms)
	}
	switch typ := strings.ToLower(q.Get("type")); typ {
	case "":
		f.alerting, f.recording = true, true
	case "alert":
		f.alerting = true
	case "record":
		f.recording = true
	default:
		return nil, badParameter("type", "not supported value %q", typ)
	}
	var err error
	if s := strings.ToLower(q.Get("exclude_alerts")); s != "" {
		if f.noAlerts, err = strconv.ParseBool(s); err != nil {
			return nil, badParameter("exclude_alerts", "error converting exclude_alerts: %s", err)
		}
	}
	return f, f.parsePage(q.Get("group_limit"))
}

func (f *filter) parsePage(limit string) (err error) {
	if limit == "" {
		if f.next != "" {
			return badParameter("group_next_token", "group_limit needs to be present in order to paginate over the groups")
		}
		return nil
	}
	if f.limit, err = strconv.Atoi(limit); err != nil {
		return badParameter("group_limit", "group_limit needs to be a valid number: %s", err)
	}
	if f.limit <= 0 {
		return badParameter("group_limit", "group_limit needs to be greater than 0")
	}
	return nil
}

// rulesPage is v1.RuleDiscovery.
type rulesPage struct {
	Groups    []groupState `json:"groups"`
	NextToken string       `json:"groupNextToken,omitempty"`
}

// page is what the request asks for of the groups, which are in order. A group
// of which no rule is wanted is left out.
func (f *filter) page(groups []groupState) (rulesPage, error) {
	if f.next != "" {
		i := slices.IndexFunc(groups, func(g groupState) bool { return pageToken(g.File, g.Name) == f.next })
		if i < 0 {
			return rulesPage{}, badParameter("group_next_token", "invalid group_next_token '%v'. were rule groups changed?", f.next)
		}
		groups = groups[i:]
	}
	p := rulesPage{Groups: []groupState{}}
	for _, g := range groups {
		if !wanted(f.groups, g.Name) || !wanted(f.files, g.File) {
			continue
		}
		if g.Rules = f.rules(g.Rules); len(g.Rules) == 0 {
			continue
		}
		if f.limit > 0 && len(p.Groups) == f.limit {
			p.NextToken = pageToken(g.File, g.Name)
			break
		}
		p.Groups = append(p.Groups, g)
	}
	return p, nil
}

func (f *filter) rules(all []ruleState) (out []ruleState) {
	for _, r := range all {
		if r.alerting != nil && !f.alerting || r.recording != nil && !f.recording ||
			!wanted(f.names, r.name()) || !wanted(f.health, string(r.health())) || !f.matches(r.labels()) ||
			len(f.states) > 0 && (r.alerting == nil || !wanted(f.states, r.alerting.State)) {
			continue
		}
		if f.noAlerts && r.alerting != nil {
			without := *r.alerting
			without.Alerts = nil
			r.alerting = &without
		}
		out = append(out, r)
	}
	return out
}

func wanted(names []string, name string) bool {
	return len(names) == 0 || slices.Contains(names, name)
}

// matches says whether all matchers of one of the selectors match.
func (f *filter) matches(ls labels.Labels) bool {
	return len(f.matchers) == 0 || slices.ContainsFunc(f.matchers, func(ms []*labels.Matcher) bool {
		return !slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return !m.Matches(ls.Get(m.Name)) })
	})
}
