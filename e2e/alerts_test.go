package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

const team = "team"

// probes are series that a team writes all the time, one for each thing it
// watches, and a rule that fires for each that is 0.
type probes struct {
	t  testing.TB
	to func() *endpoint // who takes writes now; nil: nobody

	mu     sync.Mutex
	values map[string]float64
}

const probeRules = `
name: probes
interval: 1s
rules:
- {alert: ProbeFails, expr: probe == 0, annotations: {summary: "{{ $labels.name }} fails"}}
`

// watch has the probes written until the test ends.
func watch(t testing.TB, to func() *endpoint) *probes {
	t.Helper()
	p := &probes{t: t, to: to, values: map[string]float64{"nothing": 1}}
	status, body, err := to().do(http.MethodPost, "/prometheus/config/v1/rules/e2e", team, nil, []byte(probeRules))
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, status, body)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			p.write()
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	return p
}

// write writes what the probes are. What fails is written again a second later.
func (p *probes) write() {
	p.mu.Lock()
	values := maps.Clone(p.values)
	p.mu.Unlock()
	var list []series
	for name, v := range values {
		list = append(list, floats(labels.FromStrings("__name__", "probe", "name", name), time.Now().UnixMilli(), 0, v))
	}
	body, err := remoteWrite1.encode(list)
	if err != nil {
		p.t.Error(err)
		return
	}
	if to := p.to(); to != nil {
		_, _, _ = to.do(http.MethodPost, "/api/v1/push", team, remoteWrite1.header, body)
	}
}

func (p *probes) set(name string, v float64) {
	p.mu.Lock()
	p.values[name] = v
	p.mu.Unlock()
	p.write()
}

// configureAlerts sends the team's configuration of its Alertmanager.
func (e *endpoint) configureAlerts(config string) {
	e.t.Helper()
	doc := "alertmanager_config: |\n  " + strings.ReplaceAll(strings.TrimSpace(config), "\n", "\n  ") + "\n"
	status, body, err := e.do(http.MethodPost, "/api/v1/alerts", team, nil, []byte(doc))
	require.NoError(e.t, err)
	require.Equal(e.t, http.StatusCreated, status, body)
}

// silence silences a probe for an hour.
func (e *endpoint) silence(name string) {
	e.t.Helper()
	body := fmt.Sprintf(`{"matchers": [{"name": "name", "value": %q, "isRegex": false, "isEqual": true}],
		"startsAt": %q, "endsAt": %q, "createdBy": "e2e", "comment": "known"}`,
		name, time.Now().UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	status, answer, err := e.do(http.MethodPost, "/alertmanager/api/v2/silences", team, http.Header{"Content-Type": {"application/json"}}, []byte(body))
	require.NoError(e.t, err)
	require.Equal(e.t, http.StatusOK, status, answer)
}

// held are the alerts that the team's Alertmanager has, by probe: active or
// suppressed.
func (e *endpoint) held() (map[string]string, error) {
	status, body, err := e.do(http.MethodGet, "/alertmanager/api/v2/alerts", team, nil, nil)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("%d %s %w", status, body, err)
	}
	var alerts []struct {
		Labels map[string]string `json:"labels"`
		Status struct {
			State string `json:"state"`
		} `json:"status"`
	}
	states := map[string]string{}
	err = json.Unmarshal([]byte(body), &alerts)
	for _, a := range alerts {
		states[a.Labels["name"]] = a.Status.State
	}
	return states, err
}

// alarm is what a story has of the team.
type alarm struct {
	*mailbox
	*probes
	sender *node
}

// alerts gives the team a mailbox, an Alertmanager that mails there, and probes.
func (s *story) alerts([]string) {
	s.awaitAlertmanagers(nil)
	b := newMailbox(s.t)
	s.anyone().configureAlerts(b.receiver())
	s.alarm = &alarm{mailbox: b, probes: watch(s.t, s.anyone)}
}

// anyone is a process that can be asked and is not cut off.
func (s *story) anyone() *endpoint {
	for _, n := range s.cluster.all() {
		if n.state.Load() == present {
			return &n.web
		}
	}
	return nil
}

// awaitAlertmanagers waits until all that can be asked know those that are there.
func (s *story) awaitAlertmanagers([]string) {
	until(s.t, patience, "the ring of alertmanagers", func() error {
		for _, n := range s.cluster.those("", (*node).alerts) {
			if err := s.cluster.checkRing(n, "/multitenant_alertmanager/ring", (*node).alerts); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *story) probe(w []string) {
	s.alarm.set(w[1], map[string]float64{"fail": 0, "mend": 1}[w[0]])
}

func (s *story) expectMail(w []string) {
	if w[0] == "mails" {
		s.alarm.expectSome(w[1])
		return
	}
	s.alarm.expect(strings.Split(w[1], " and ")...)
}

func (s *story) expectMuted(w []string) {
	until(s.t, patience, w[0]+" to be suppressed", func() error {
		held, err := s.anyone().held()
		if err == nil && held[w[0]] != "suppressed" {
			err = fmt.Errorf("there are %v", held)
		}
		return err
	})
}

// theSender is the process that sends first for the team. It stays so for the
// story once it was asked for.
func (s *story) theSender() *node {
	if s.alarm.sender != nil {
		return s.alarm.sender
	}
	until(s.t, patience, "somebody to be the first to send", func() error {
		for _, n := range s.cluster.those("", (*node).alerts) {
			_, body, err := n.web.get("/multitenant_alertmanager/status")
			if err != nil {
				return err
			}
			var lines []struct {
				Tenant   string `json:"tenant"`
				Position int    `json:"position"`
			}
			if err := json.Unmarshal([]byte(body), &lines); err != nil {
				return err
			}
			for _, l := range lines {
				if l.Tenant == team && l.Position == 0 {
					s.alarm.sender = n
					return nil
				}
			}
		}
		return fmt.Errorf("it runs nowhere")
	})
	s.tell("  %s sends first", s.alarm.sender.name)
	return s.alarm.sender
}
