package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/stretchr/testify/require"
)

// pager is an Alertmanager that only writes down what it is told.
type pager struct {
	*httptest.Server

	mu   sync.Mutex
	told []told
}

// told is an alert as it came.
type told struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`

	path string
	at   time.Time
}

func (a told) name() string { return labels.FromMap(a.Labels).String() }

func (a told) resolved() bool { return !a.EndsAt.IsZero() && !a.EndsAt.After(a.at) }

func newPager(t testing.TB) *pager {
	t.Helper()
	p := &pager{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var alerts []told
		if err := json.NewDecoder(r.Body).Decode(&alerts); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, a := range alerts {
			a.path, a.at = r.URL.Path, time.Now()
			p.told = append(p.told, a)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *pager) all() []told {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told)
}

// moving is rules that are evaluated while rulers come and go.
type moving struct {
	t       *testing.T
	c       *cluster
	pager   *pager
	groups  int
	value   chan float64
	written sync.WaitGroup
}

const movingTenant = "team"

func (m *moving) post(via *node) {
	m.t.Helper()
	for i := range m.groups {
		group := fmt.Sprintf(`{name: g%[1]d, interval: 1s, rules: [{alert: Down%[1]d, expr: probe == 0, for: 20s}, {record: "probe:sum%[1]d", expr: sum(probe)}]}`, i)
		status, body, err := via.web.do(http.MethodPost, "/prometheus/config/v1/rules/e2e", movingTenant, nil, []byte(group))
		require.NoError(m.t, err)
		require.Equal(m.t, http.StatusAccepted, status, body)
	}
}

// write writes the value that was set last, twice a second, through whoever
// takes it.
func (m *moving) write() {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	v := 1.0
	for turn := 0; ; turn++ {
		select {
		case next, ok := <-m.value:
			if !ok {
				return
			}
			v = next
		case <-tick.C:
		}
		body, err := remoteWrite1.encode([]series{floats(labels.FromStrings("__name__", "probe"), time.Now().UnixMilli(), 0, v)})
		if err != nil {
			m.t.Error(err)
			return
		}
		writers := m.c.those("", (*node).distributes)
		_, _, _ = writers[turn%len(writers)].web.do(http.MethodPost, "/api/v1/push", movingTenant, remoteWrite1.header, body) // the next one does it
	}
}

// states counts the alerts in each state, as some ruler knows them.
func (m *moving) states() (map[string]int, error) {
	rulers := m.c.those("", (*node).rules)
	status, body, err := rulers[0].web.do(http.MethodGet, "/prometheus/api/v1/alerts", movingTenant, nil, nil)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("%d %s %w", status, body, err)
	}
	var page struct {
		Data struct{ Alerts []struct{ State string } }
	}
	err = json.Unmarshal([]byte(body), &page)
	count := map[string]int{}
	for _, a := range page.Data.Alerts {
		count[a.State]++
	}
	return count, err
}

func (m *moving) await(what string, done func(map[string]int) bool) {
	m.t.Helper()
	until(m.t, patience, what, func() error {
		count, err := m.states()
		if err == nil && !done(count) {
			err = fmt.Errorf("there are %v", count)
		}
		return err
	})
}

// evaluated waits until each group was evaluated after now, by somebody.
func (m *moving) evaluated() {
	m.t.Helper()
	since := time.Now()
	rulers := m.c.those("", (*node).rules)
	until(m.t, patience, "all groups to be evaluated", func() error {
		_, body, err := rulers[0].web.do(http.MethodGet, "/prometheus/api/v1/rules", movingTenant, nil, nil)
		if err != nil {
			return err
		}
		var page struct {
			Data struct {
				Groups []struct {
					Name           string
					LastEvaluation time.Time
				}
			}
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			return err
		}
		if len(page.Data.Groups) != m.groups {
			return fmt.Errorf("there are %d groups", len(page.Data.Groups))
		}
		for _, g := range page.Data.Groups {
			if g.LastEvaluation.Before(since) {
				return fmt.Errorf("%s was evaluated %s", g.Name, g.LastEvaluation)
			}
		}
		return nil
	})
	m.t.Logf("all groups evaluated after %s", time.Since(since).Round(100*time.Millisecond))
}

// Real rulers are restarted, killed, added and taken away while alerts are
// pending and firing. They fire once, and are not resolved before they should be.
func TestRulersComeAndGo(t *testing.T) {
	t.Parallel()
	if !long {
		t.Skip("with the build tag e2e")
	}
	m := &moving{t: t, c: newCluster(t), pager: newPager(t), groups: 9, value: make(chan float64)}
	m.c.set = []string{"limits.defaults.alertmanager_urls=" + m.pager.URL}
	m.c.add("writer", 3, nil, "")
	m.c.awaitRing(3)
	m.c.add("querier", 1, nil, "")
	m.awaitBuildInfo(false)
	m.c.add("ruler", 3, nil, "")
	m.awaitBuildInfo(true)
	rulers := m.c.those("", (*node).rules)
	m.awaitRulers()
	m.written.Go(m.write)
	stop := sync.OnceFunc(func() { close(m.value); m.written.Wait() })
	t.Cleanup(stop)
	m.post(rulers[0])
	m.evaluated()

	m.value <- 0
	m.await("all to be pending", func(n map[string]int) bool { return n["pending"] == m.groups })
	pending := time.Now()
	for _, r := range rulers { // a new version is rolled out
		r.stopCleanly()
		r.startAgain()
		m.awaitRulers()
	}
	m.evaluated()
	m.await("all to fire", func(n map[string]int) bool { return n["firing"] == m.groups })
	firing := time.Now()
	t.Logf("firing %s after pending, for: 20s", firing.Sub(pending).Round(100*time.Millisecond))
	m.awaitTold(false)

	rulers[1].crash()
	m.evaluated() // by others
	m.c.add("ruler", 1, nil, "")
	m.awaitRulers()
	m.evaluated()
	rulers[0].stopCleanly()
	m.evaluated()
	rulers[1].startAgain()
	m.awaitRulers()
	m.evaluated()
	for _, r := range rulers[1:] { // those that are left, at once
		r.stopCleanly()
	}
	m.evaluated()

	m.value <- 1
	mended := time.Now()
	m.awaitTold(true)
	m.checkTold(mended)
	stop()
	m.checkSeries(firing, mended)
}

// awaitRulers waits until all rulers know those that are there.
func (m *moving) awaitRulers() {
	m.t.Helper()
	until(m.t, patience, "the ring of rulers", func() error {
		var errs []error
		for _, n := range m.c.those("", (*node).rules) {
			errs = append(errs, m.c.checkRing(n, "/ruler/ring", (*node).rules))
		}
		return errors.Join(errs...)
	})
}

// awaitBuildInfo waits until a querier says whether there is somebody who keeps
// rules, by which Grafana decides what it offers.
func (m *moving) awaitBuildInfo(rules bool) {
	m.t.Helper()
	until(m.t, patience, fmt.Sprintf("buildinfo to tell of rules: %v", rules), func() error {
		_, body, err := m.c.those("", (*node).queries)[0].web.do(http.MethodGet, "/prometheus/api/v1/status/buildinfo", movingTenant, nil, nil)
		if err == nil && strings.Contains(body, `"ruler_config_api":"true"`) != rules {
			err = errors.New(body)
		}
		return err
	})
}

// awaitTold waits until the pager was told of all alerts, that they fire or
// that they are resolved.
func (m *moving) awaitTold(resolved bool) {
	m.t.Helper()
	until(m.t, patience, fmt.Sprintf("all to be told, resolved: %v", resolved), func() error {
		names := map[string]bool{}
		for _, a := range m.pager.all() {
			if a.resolved() == resolved {
				names[a.name()] = true
			}
		}
		if len(names) != m.groups {
			return fmt.Errorf("%d were told", len(names))
		}
		return nil
	})
}

// checkTold: from the first time on an alert was good until it was told again,
// and nobody said that it was over.
func (m *moving) checkTold(mended time.Time) {
	m.t.Helper()
	good := map[string]time.Time{}
	for _, a := range m.pager.all() {
		name := a.name()
		until, known := good[name]
		switch {
		case a.resolved() && a.at.Before(mended):
			m.t.Errorf("%s was resolved %s before it was mended", name, mended.Sub(a.at))
		case known && until.Before(a.at):
			m.t.Errorf("%s had ended at %s, and is told of again %s later", name, until, a.at.Sub(until))
		}
		if a.EndsAt.After(until) {
			good[name] = a.EndsAt
		}
	}
	m.t.Logf("%d alerts were told %d times", len(good), len(m.pager.all()))
}

// checkSeries: what rules write goes on, without an end in between, and without
// a hole that is longer than it takes to miss a ruler.
func (m *moving) checkSeries(from, to time.Time) {
	m.t.Helper()
	const missed = 60 * time.Second // 20 until others take over; the machine is busy
	reader := m.c.those("", (*node).queries)[0]
	written, err := reader.web.read(movingTenant, from.UnixMilli(), to.UnixMilli(), labels.MustNewMatcher(labels.MatchRegexp, "__name__", "ALERTS.*|probe:.*"))
	require.NoError(m.t, err)
	worst := time.Duration(0)
	maps.DeleteFunc(written, func(name string, _ map[int64]point) bool { return strings.Contains(name, `alertstate="pending"`) })
	require.Len(m.t, written, 3*m.groups, "ALERTS, ALERTS_FOR_STATE, and what is recorded: %v", slices.Sorted(maps.Keys(written)))
	for name, s := range written {
		last := from.UnixMilli()
		for _, at := range slices.Sorted(maps.Keys(s)) {
			if value.IsStaleNaN(s[at].v) {
				m.t.Errorf("%s ends at %d, while it fires", name, at)
			}
			worst = max(worst, time.Duration(at-last)*time.Millisecond)
			last = at
		}
	}
	m.t.Logf("the longest time without a sample of a rule was %s", worst)
	require.Less(m.t, worst, missed)
}
