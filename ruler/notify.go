package ruler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/strutil"

	"github.com/hearth-metrics/hearth/tenant"
)

// Notifier takes a tenant's alerts: those that fire, again and again, and those
// that are resolved. It does not change them.
type Notifier interface {
	Notify(ctx context.Context, id tenant.ID, alerts []*notifier.Alert) error
}

const (
	maxWaiting    = 1000 // batches of one tenant; a batch is what one rule has to tell
	notifyTimeout = 10 * time.Second

	// takeOverTime is how long a ruler that is lost may not be noticed. An alert
	// that fires is good for that long and three intervals more than Prometheus
	// says, so that it is not resolved before another ruler has told of it.
	takeOverTime = time.Minute
)

// notify is called with the alerts of a rule that are to be told of.
func (g *runner) notify(_ context.Context, expr string, alerts ...*rules.Alert) {
	if len(alerts) == 0 {
		return
	}
	interval := time.Duration(g.want.Load().Interval)
	if interval == 0 {
		interval = time.Duration(g.r.cfg.EvaluationInterval)
	}
	link := g.r.cfg.ExternalURL + strutil.TableLinkForExpression(expr)
	batch := make([]*notifier.Alert, len(alerts))
	for i, a := range alerts {
		batch[i] = &notifier.Alert{Labels: a.Labels, Annotations: a.Annotations, StartsAt: a.FiredAt, EndsAt: a.ResolvedAt, GeneratorURL: link}
		if a.ResolvedAt.IsZero() {
			batch[i].EndsAt = a.ValidUntil.Add(takeOverTime + 3*interval)
		}
	}
	g.r.sender.send(g.id, batch)
}

// sender passes alerts on, so that an evaluation does not wait for an
// Alertmanager, nor one tenant's alerts for another's.
type sender struct {
	own      Notifier // nil: there is none
	external http.Client
	limits   func(tenant.ID) *tenant.Limits
	logger   *slog.Logger
	alerts   *prometheus.CounterVec
	workers  sync.WaitGroup
	ctx      context.Context // ends when nobody waits for alerts under way any more
	cut      context.CancelFunc

	mu      sync.Mutex
	waiting map[tenant.ID][][]*notifier.Alert // of tenants with a worker, in order
}

func newSender(own Notifier, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, alerts *prometheus.CounterVec) *sender {
	s := &sender{own: own, limits: limits, logger: logger, alerts: alerts, waiting: map[tenant.ID][][]*notifier.Alert{}}
	s.external.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	s.ctx, s.cut = context.WithCancel(context.Background())
	return s
}

// send never waits. Of what waits too long the oldest is dropped: alerts that
// still fire are in what is newer, too.
func (s *sender) send(id tenant.ID, alerts []*notifier.Alert) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue, working := s.waiting[id]
	if len(queue) >= maxWaiting {
		s.alerts.WithLabelValues("dropped").Add(float64(len(queue[0])))
		queue = queue[1:]
	}
	s.waiting[id] = append(queue, alerts)
	if !working {
		s.workers.Go(func() { s.work(id) })
	}
}

// work passes on what waits for a tenant.
func (s *sender) work(id tenant.ID) {
	for {
		s.mu.Lock()
		queue := s.waiting[id]
		if len(queue) == 0 {
			delete(s.waiting, id)
			s.mu.Unlock()
			return
		}
		next := queue[0]
		s.waiting[id] = queue[1:]
		s.mu.Unlock()
		s.alerts.WithLabelValues(s.pass(id, next)).Add(float64(len(next)))
	}
}

// close waits a bounded time for what is under way. It is called after the last
// send.
func (s *sender) close() {
	cut := time.AfterFunc(notifyTimeout, s.cut)
	s.workers.Wait()
	cut.Stop()
	s.cut()
	s.external.CloseIdleConnections()
}

// pass says what became of alerts.
func (s *sender) pass(id tenant.ID, alerts []*notifier.Alert) string {
	ctx, cancel := context.WithTimeout(s.ctx, notifyTimeout)
	defer cancel()
	urls := s.limits(id).AlertmanagerURLs
	var err error
	switch {
	case urls != "":
		err = s.post(ctx, urls, alerts)
	case s.own != nil:
		err = s.own.Notify(ctx, id, alerts)
	default:
		return "nowhere"
	}
	if err != nil {
		s.logger.Warn("alerts not sent; while they fire they are sent again", "tenant", id, "err", err)
		return "failed"
	}
	return "sent"
}

// post sends alerts to all Alertmanagers of a cluster, as Prometheus does: they
// agree on who notifies. It is enough if one of them has taken them.
func (s *sender) post(ctx context.Context, urls string, alerts []*notifier.Alert) error {
	body, err := json.Marshal(alerts)
	if err != nil {
		return err
	}
	targets := strings.Split(urls, ",")
	errs := make([]error, len(targets))
	var wg sync.WaitGroup
	for i, base := range targets {
		wg.Go(func() { errs[i] = s.postTo(ctx, strings.TrimSpace(base), body) })
	}
	wg.Wait()
	if slices.Contains(errs, nil) {
		return nil
	}
	return errors.Join(errs...)
}

func (s *sender) postTo(ctx context.Context, base string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/api/v2/alerts", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := s.external.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 512))
		return fmt.Errorf("%s answered %s: %s", r.URL.Redacted(), res.Status, text)
	}
	return nil
}
