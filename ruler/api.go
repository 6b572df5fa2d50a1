package ruler

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// groupState is v1.RuleGroup with rules that can be read back.
type groupState struct {
	Name           string      `json:"name"`
	File           string      `json:"file"`
	Rules          []ruleState `json:"rules"`
	Interval       float64     `json:"interval"`
	Limit          int         `json:"limit"`
	SourceTenants  []string    `json:"sourceTenants,omitempty"` // as in Mimir
	EvaluationTime float64     `json:"evaluationTime"`
	LastEvaluation time.Time   `json:"lastEvaluation"`
}

// ruleState is one of the two.
type ruleState struct {
	alerting  *v1.AlertingRule
	recording *v1.RecordingRule
}

// MarshalJSON implements json.Marshaler.
func (s ruleState) MarshalJSON() ([]byte, error) {
	if s.alerting != nil {
		return json.Marshal(s.alerting)
	}
	return json.Marshal(s.recording)
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *ruleState) UnmarshalJSON(data []byte) error {
	var peek struct{ Type string }
	if err := json.Unmarshal(data, &peek); err != nil {
		return err
	}
	if peek.Type == "alerting" {
		s.alerting = new(v1.AlertingRule)
		return json.Unmarshal(data, s.alerting)
	}
	s.recording = new(v1.RecordingRule)
	return json.Unmarshal(data, s.recording)
}

func (s ruleState) name() string {
	if s.alerting != nil {
		return s.alerting.Name
	}
	return s.recording.Name
}

func (s ruleState) labels() labels.Labels {
	if s.alerting != nil {
		return s.alerting.Labels
	}
	return s.recording.Labels
}

func (s ruleState) health() rules.RuleHealth {
	if s.alerting != nil {
		return s.alerting.Health
	}
	return s.recording.Health
}

// stateOf is a group as it is evaluated here.
func stateOf(namespace string, g *rules.Group) groupState {
	s := groupState{
		Name: g.Name(), File: namespace, Rules: []ruleState{},
		Interval: g.Interval().Seconds(), Limit: g.Limit(),
		EvaluationTime: g.GetEvaluationTime().Seconds(), LastEvaluation: g.GetLastEvaluation(),
	}
	for _, r := range g.Rules() {
		lastError := ""
		if err := r.LastError(); err != nil {
			lastError = err.Error()
		}
		switch r := r.(type) {
		case *rules.AlertingRule:
			s.Rules = append(s.Rules, ruleState{alerting: &v1.AlertingRule{
				State: r.State().String(), Name: r.Name(), Query: r.Query().String(),
				Duration: r.HoldDuration().Seconds(), KeepFiringFor: r.KeepFiringFor().Seconds(),
				Labels: showTemplates(r.Labels()), Annotations: showTemplates(r.Annotations()), Alerts: alertsOf(r),
				Health: r.Health(), LastError: lastError,
				EvaluationTime: r.GetEvaluationDuration().Seconds(), LastEvaluation: r.GetEvaluationTimestamp(),
				Type: "alerting",
			}})
		case *rules.RecordingRule:
			s.Rules = append(s.Rules, ruleState{recording: &v1.RecordingRule{
				Name: r.Name(), Query: r.Query().String(), Labels: r.Labels(),
				Health: r.Health(), LastError: lastError,
				EvaluationTime: r.GetEvaluationDuration().Seconds(), LastEvaluation: r.GetEvaluationTimestamp(),
				Type: "recording",
			}})
		}
	}
	return s
}

func alertsOf(r *rules.AlertingRule) []*v1.Alert {
	active := r.ActiveAlerts()
	out := make([]*v1.Alert, len(active))
	for i, a := range active {
		out[i] = &v1.Alert{
			Labels: a.Labels, Annotations: a.Annotations, State: a.State.String(),
			ActiveAt: &a.ActiveAt, Value: strconv.FormatFloat(a.Value, 'e', -1, 64),
		}
		if !a.KeepFiringSince.IsZero() {
			out[i].KeepFiringSince = &a.KeepFiringSince
		}
	}
	return out
}

// notEvaluated is a group of which only the rules are known: it is new, or its
// ruler does not answer.
func (r *Ruler) notEvaluated(namespace string, g *Group) groupState {
	interval := cmp.Or(g.Interval, r.cfg.EvaluationInterval)
	s := groupState{Name: g.Name, File: namespace, Rules: []ruleState{}, Interval: time.Duration(interval).Seconds(), Limit: g.Limit}
	for _, rule := range g.Rules {
		ls := rules.FromMaps(g.Labels, rule.Labels)
		if rule.Alert == "" {
			s.Rules = append(s.Rules, ruleState{recording: &v1.RecordingRule{
				Name: rule.Record, Query: rule.Expr, Labels: ls, Health: rules.HealthUnknown, Type: "recording",
			}})
			continue
		}
		s.Rules = append(s.Rules, ruleState{alerting: &v1.AlertingRule{
			State: rules.StateUnknown.String(), Name: rule.Alert, Query: rule.Expr,
			Duration: time.Duration(rule.For).Seconds(), KeepFiringFor: time.Duration(rule.KeepFiringFor).Seconds(),
			Labels: ls, Annotations: labels.FromMap(rule.Annotations), Alerts: []*v1.Alert{},
			Health: rules.HealthUnknown, Type: "alerting",
		}})
	}
	return s
}

// ourStates are the groups of a tenant that are evaluated here.
func (r *Ruler) ourStates(id tenant.ID) []groupState {
	r.mu.Lock()
	var ours []*runner
	if t := r.tenants[id]; t != nil {
		for _, g := range t.ours {
			ours = append(ours, g)
		}
	}
	r.mu.Unlock()
	var out []groupState
	for _, g := range ours {
		for _, group := range g.manager.RuleGroups() {
			out = append(out, stateOf(g.name.namespace, group))
		}
	}
	return out
}

// Rules implements wire.RulerServer.
func (r *Ruler) Rules(_ context.Context, req *wire.RulesRequest) (*wire.RulesResponse, error) {
	res := &wire.RulesResponse{}
	for _, s := range r.ourStates(tenant.ID(req.Tenant)) {
		data, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		res.Groups = append(res.Groups, data)
	}
	return res, nil
}

// askTimeout bounds the wait for another ruler.
const askTimeout = 5 * time.Second

// states are all groups of a tenant, wherever they are evaluated, in order, and
// what is missing of them.
func (r *Ruler) states(ctx context.Context, id tenant.ID) ([]groupState, []string, error) {
	doc, _, err := r.store.get(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	known := map[groupName]groupState{}
	add := func(states []groupState) {
		for _, s := range states {
			name := groupName{s.File, s.Name}
			// Of two that evaluate it, as when it moves, the later one counts.
			if have, ok := known[name]; !ok || s.LastEvaluation.After(have.LastEvaluation) {
				known[name] = s
			}
		}
	}
	add(r.ourStates(id))
	var warnings []string
	for _, answer := range r.askOthers(ctx, id) {
		if answer.err != nil {
			r.logger.Warn("ruler did not answer", "instance", answer.member, "err", answer.err)
			warnings = append(warnings, "a ruler did not answer: the state of its rules and its alerts are missing")
		}
		add(answer.states)
	}
	out := []groupState{}
	for namespace, groups := range doc.Namespaces {
		for i := range groups {
			s, ok := known[groupName{namespace, groups[i].Name}]
			if !ok {
				s = r.notEvaluated(namespace, &groups[i])
			}
			s.SourceTenants = groups[i].SourceTenants
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b groupState) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Name, b.Name))
	})
	return out, slices.Compact(warnings), nil
}

type answer struct {
	member string
	states []groupState
	err    error
}

func (r *Ruler) askOthers(ctx context.Context, id tenant.ID) []answer {
	members := slices.DeleteFunc(slices.Clone(r.members()), func(m ring.Member) bool { return m.ID == r.Cluster.Self })
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answers := make(chan answer, len(members))
	for _, m := range members {
		go func() {
			states, err := r.ask(ctx, m, id)
			answers <- answer{m.ID, states, err}
		}()
	}
	var out []answer
	for range members {
		out = append(out, <-answers)
	}
	return out
}

func (r *Ruler) ask(ctx context.Context, m ring.Member, id tenant.ID) ([]groupState, error) {
	other, err := r.Cluster.Call(m)
	if err != nil {
		return nil, err
	}
	res, err := other.Rules(ctx, &wire.RulesRequest{Tenant: string(id)})
	if err != nil {
		return nil, err
	}
	states := make([]groupState, len(res.Groups))
	for i, data := range res.Groups {
		err = errors.Join(err, json.Unmarshal(data, &states[i]))
	}
	return states, err
}

// serveRules answers as Prometheus' /api/v1/rules.
func (r *Ruler) serveRules(w http.ResponseWriter, req *http.Request) {
	f, err := r.parseFilter(req)
	if err != nil {
		writeFailure(w, err)
		return
	}
	r.answer(w, req, func(groups []groupState) (any, error) { return f.page(groups) })
}

// serveAlerts answers as Prometheus' /api/v1/alerts.
func (r *Ruler) serveAlerts(w http.ResponseWriter, req *http.Request) {
	r.answer(w, req, func(groups []groupState) (any, error) {
		alerts := []*v1.Alert{}
		for _, g := range groups {
			for _, rule := range g.Rules {
				if rule.alerting != nil {
					alerts = append(alerts, rule.alerting.Alerts...)
				}
			}
		}
		return v1.AlertDiscovery{Alerts: alerts}, nil
	})
}

// answer answers in Prometheus' envelope with what f makes of the tenant's groups.
func (r *Ruler) answer(w http.ResponseWriter, req *http.Request, f func([]groupState) (any, error)) {
	id, err := tenant.FromContext(req.Context())
	if err != nil {
		writeFailure(w, err)
		return
	}
	groups, warnings, err := r.states(req.Context(), id)
	if err != nil {
		r.logger.Error("rules not shown", "tenant", id, "err", err)
		writeFailure(w, err)
		return
	}
	data, err := f(groups)
	if err != nil {
		writeFailure(w, err)
		return
	}
	writeJSON(w, http.StatusOK, v1.Response{Status: "success", Data: data, Warnings: warnings})
}

func writeFailure(w http.ResponseWriter, err error) {
	kind, typ, text := wire.KindOf(err), "internal", "the rules could not be read, see the server's log"
	switch kind {
	case wire.Invalid:
		typ = "bad_data"
	case wire.Unavailable:
		typ = "unavailable"
	default:
	}
	var ue *wire.UserError
	if errors.As(err, &ue) {
		text = ue.Error()
	}
	writeJSON(w, kind.HTTPStatus(), v1.Response{Status: "error", ErrorType: typ, Error: text})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, fmt.Sprintf("encode the answer: %s", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has hung up: nobody to tell
}

// pageToken is Prometheus' own.
func pageToken(file, group string) string {
	sum := sha256.Sum256([]byte(file + ";" + group))
	return hex.EncodeToString(sum[:])
}
