package alertmanager

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/alert"
	apiv2 "github.com/prometheus/alertmanager/api/v2"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/marker"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/hearth-metrics/hearth/tenant"
)

const (
	// retention is how long silences that have ended, and what was sent, are
	// remembered: upstream's default.
	retention = 120 * time.Hour
	// collectEvery is how often upstream's packages drop what is resolved.
	collectEvery = 30 * time.Minute
	groupsEvery  = 30 * time.Second
	// settleTimeout is how long a receiver may take to answer, for those who wait
	// for what is under way.
	settleTimeout = 5 * time.Second
	everything    = math.MaxInt32
)

// instance is a tenant's Alertmanager.
type instance struct {
	id     tenant.ID
	parent *Alertmanager
	logger *slog.Logger

	silences *silence.Silences
	silencer *silence.Silencer
	log      *nflog.Log
	alerts   *mem.Alerts
	taking   sync.Mutex // from looking at what alerts has, to putting there what is newer
	held     *held
	muted    marker.GroupMarker
	rate     *rate.Limiter
	sending  *semaphore.Weighted // what is under way has one, see settle
	news     news
	step     atomic.Int64       // how long each replica waits for the one before it
	users    atomic.Int64       // requests that are under way
	used     atomic.Int64       // when the last one began, in ns
	joined   chan struct{}      // closed when it may send, see join
	leave    context.CancelFunc // ends join

	mu         sync.RWMutex
	version    string // ETag of what runs
	source     string // alertmanager_config
	resolve    time.Duration
	dispatcher *dispatch.Dispatcher
	inhibitor  *inhibit.Inhibitor
	api        *apiv2.API // nil until somebody asks, most never do
}

// newInstance makes a tenant's Alertmanager. It does nothing until apply.
func (a *Alertmanager) newInstance(id tenant.ID) (*instance, error) {
	in := &instance{id: id, parent: a, logger: a.logger.With("tenant", id), muted: marker.NewGroupMarker(), sending: semaphore.NewWeighted(everything),
		joined: make(chan struct{}), leave: func() {}}
	limit := func(f func(*tenant.Limits) int) func() int { return func() int { return f(a.limits(id)) } }
	var err error
	in.silences, err = silence.New(silence.Options{
		Retention: retention, Logger: in.logger, Metrics: unregistered{},
		SnapshotReader: strings.NewReader(""), // without one, it makes room for hundreds
		Limits: silence.Limits{
			MaxSilences:         limit(func(l *tenant.Limits) int { return l.MaxSilences }),
			MaxSilenceSizeBytes: limit(func(l *tenant.Limits) int { return l.MaxSilenceSize }),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make silences: %w", err)
	}
	if in.log, err = nflog.New(nflog.Options{Retention: retention, Logger: in.logger, Metrics: unregistered{}}); err != nil {
		return nil, fmt.Errorf("make the notification log: %w", err)
	}
	in.silencer = silence.NewSilencer(in.silences, in.logger, eventrecorder.Recorder{})
	in.held = &held{Silencer: in.silencer, limits: func() *tenant.Limits { return a.limits(id) }}
	in.alerts, err = mem.NewAlerts(context.Background(), collectEvery, 0, in.held, in.logger, eventrecorder.Recorder{}, unregistered{}, nil)
	if err != nil {
		return nil, fmt.Errorf("make alerts: %w", err)
	}
	in.rate = newRate(a.limits(id).NotificationRate)
	in.news.in = in
	in.used.Store(time.Now().UnixNano())
	return in, nil
}

// listen has what is new from now on told to the other replicas.
func (in *instance) listen() {
	in.silences.SetBroadcast(func(b []byte) { in.news.add(b, nil) })
	in.log.SetBroadcast(func(b []byte) { in.news.add(nil, b) })
}

// newRate bounds notifications; a second's worth may be saved up for ten.
func newRate(perSecond float64) *rate.Limiter {
	if perSecond == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(10*perSecond)))
}

func (in *instance) etag() string {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.version
}

// apply makes a configuration the one that runs. The alerts, silences and the
// log stay.
func (in *instance) apply(c UserConfig, etag string) error {
	l, err := in.parent.load(in.id, c)
	if err != nil {
		return err
	}
	receivers, err := l.receivers(in.parent.door, in.rate, in.logger)
	if err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.halt()
	inhibitor := inhibit.NewInhibitor(in.alerts, l.conf.InhibitRules, in.logger, eventrecorder.Recorder{})
	pipeline := in.pipeline(in.counted(receivers), inhibitor, timeinterval.NewIntervener(l.intervals()))
	routes := dispatch.NewRoute(l.conf.Route, nil)
	in.step.Store(int64(step(routes, time.Duration(in.parent.cfg.PeerTimeout))))
	dispatcher := dispatch.NewDispatcher(in.alerts, routes, pipeline, in.muted, in.timeout,
		groupsEvery, in, in.logger, eventrecorder.Recorder{}, nil, l.templates)
	// What is inhibited is known before anything is sent.
	go inhibitor.Run()
	inhibitor.WaitForLoading()
	go dispatcher.Run(time.Now())
	dispatcher.WaitForLoading()
	in.inhibitor, in.dispatcher, in.version = inhibitor, dispatcher, etag
	in.source, in.resolve = c.Config, time.Duration(l.conf.Global.ResolveTimeout)
	in.api = nil // the next who asks sees the new configuration
	return nil
}

// MaxNumberOfAggregationGroups implements dispatch.Limits.
func (in *instance) MaxNumberOfAggregationGroups() int { return in.parent.limits(in.id).MaxAlertGroups }

// wait is how long this replica leaves it to those before it to send.
func (in *instance) wait() time.Duration {
	n, _ := in.parent.place.position(in.id)
	return time.Duration(n) * time.Duration(in.step.Load())
}

// step is the time between two replicas: peerTimeout, but the last of them has
// had its turn well before the first looks at the group again. If it had not,
// it would not find what it is about to send in the log, but what came after.
func step(routes *dispatch.Route, peerTimeout time.Duration) time.Duration {
	routes.Walk(func(r *dispatch.Route) { peerTimeout = min(peerTimeout, r.RouteOpts.GroupInterval/4) })
	return peerTimeout
}

// timeout is how long a notification may take.
func (in *instance) timeout(d time.Duration) time.Duration {
	return max(d, notify.MinTimeout) + in.wait()
}

// mutes has the inhibitor and the silencer mark an alert.
func (in *instance) mutes(ctx context.Context, lset model.LabelSet) {
	in.mu.RLock()
	inhibitor := in.inhibitor
	in.mu.RUnlock()
	inhibitor.Mutes(ctx, lset)
	in.silencer.Mutes(ctx, lset)
}

func (in *instance) groups(ctx context.Context, routes func(*dispatch.Route) bool, alerts func(*alert.Alert, time.Time) bool) (dispatch.AlertGroups, map[model.Fingerprint][]string, error) {
	in.mu.RLock()
	d := in.dispatcher
	in.mu.RUnlock()
	return d.Groups(ctx, routes, alerts)
}

// handler is the tenant's API. It takes some memory, so it is made when
// somebody asks.
func (in *instance) handler() (*apiv2.API, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.api == nil {
		api, err := apiv2.NewAPI(in.alerts, in.groups, in.muted.Muted, in.silences, nil, in.logger, unregistered{})
		if err != nil {
			return nil, fmt.Errorf("make the API: %w", err)
		}
		conf, err := config.Load(in.source)
		if err != nil {
			return nil, fmt.Errorf("show the configuration: %w", err)
		}
		api.Update(conf, in.mutes)
		in.api = api
	}
	return in.api, nil
}

// collect drops what is over.
func (in *instance) collect() {
	if _, err := in.silences.GC(); err != nil {
		in.logger.Warn("silences not collected", "err", err)
	}
	if _, err := in.log.GC(); err != nil {
		in.logger.Warn("notification log not collected", "err", err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.unused() {
		in.api = nil
	}
}

// halt stops what a configuration has started. It is called under mu.
func (in *instance) halt() {
	if in.dispatcher != nil {
		in.dispatcher.Stop()
		in.settle(context.Background())
		in.inhibitor.Stop()
	}
}

// close stops everything. What was sent last is told to the other replicas.
func (in *instance) close() {
	in.leave()
	in.mu.Lock()
	in.halt()
	in.mu.Unlock()
	in.alerts.Close()
	in.news.close()
}
