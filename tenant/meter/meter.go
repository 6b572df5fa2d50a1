// Package meter is the METER: it counts what each tenant uses, hour by hour,
// and keeps the last refusals for the tenant to see.
//
// In come counts of what was stored, refused and read; out goes one object for
// each hour and process, written anew every five minutes, and the sum of all of
// them when somebody asks. A process that is killed loses at most what it has
// counted since its last write: five minutes. Start reading at Meter, then flush.go and
// read.go.
package meter

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Usage is what a tenant has used in an hour, or, in an answer, what all
// processes have counted.
type Usage struct {
	SamplesStored  int64            `json:"samples_stored"`
	BytesReceived  int64            `json:"bytes_received"` // of write requests, decompressed
	SamplesRefused map[string]int64 `json:"samples_refused,omitempty"`
	SeriesPeak     float64          `json:"active_series_peak"`
	Queries        int64            `json:"queries"`
	SeriesRead     int64            `json:"series_read"`

	SamplesRead     int64 `json:"samples_read"` // by queries and rules
	BytesRead       int64 `json:"bytes_read"`   // of answers to queries, as they were sent
	RuleEvaluations int64 `json:"rule_evaluations"`
	Notifications   int64 `json:"notifications"` // that a receiver has taken
	BytesStored     int64 `json:"bytes_stored"`  // in blocks, when they were last looked at
}

// Refusal is one request of which something was refused.
type Refusal struct {
	At      time.Time `json:"at"`
	ID      string    `json:"id"`      // of the first error
	Message string    `json:"message"` // of the first error, with the series
	Samples int       `json:"samples"` // how many were refused
}

// Stats is what a tenant uses now.
type Stats struct {
	SamplesPerSecond float64 `json:"samples_per_second"`
	ActiveSeries     float64 `json:"active_series"`

	// ByLabelSet are the active series of each label set that has a limit.
	ByLabelSet map[string]float64 `json:"series_by_label_set,omitempty"`
}

// keptRefusals is how many refusals of a tenant are kept for each hour and
// process. Their number for each reason is exact, in Usage.
const keptRefusals = 10

// record is what a process knows of a tenant in an hour.
type record struct {
	Tenant tenant.ID `json:"tenant"` // first, for read.go looks for it
	Usage
	Stats
	Refusals []Refusal `json:"refusals,omitempty"` // the newest

	// BytesPooled is in blocks that the tenant shares with others, BytesStored
	// in its own: two processes may look at them. Answers have the sum.
	BytesPooled int64 `json:"bytes_pooled,omitempty"`

	before int64 // SamplesStored when Stats was made
}

// Options is what a meter needs.
type Options struct {
	Bucket   bucket.Bucket
	Instance string // name of the process
	Replicas int    // on how many ingesters each series is

	// Series yields the active series of each tenant that the ingester of this
	// process has; nil where there is none.
	Series func(yield func(id tenant.ID, series int))

	// LabelSets yields those of each label set that has a limit; nil as above.
	LabelSets func(yield func(id tenant.ID, set string, series int))
}

// Meter counts. It is a service: while it runs it stores what it has counted.
// Safe for concurrent use.
type Meter struct {
	services.Service

	o        Options
	name     string                                                       // of this process' objects
	blocks   func(yield func(id tenant.ID, home bucket.Key, bytes int64)) // see ObserveBlocks
	logger   *slog.Logger
	failures prometheus.Counter
	now      func() time.Time

	flushing sync.Mutex

	mu    sync.Mutex
	hours map[time.Time]*hour // the present one, and those that are not stored yet
}

type hour struct {
	tenants map[tenant.ID]*record
	changes int // since the start of the hour
	stored  int // of changes
}

// New makes a meter that starts from nothing.
func New(o Options, logger *slog.Logger, reg prometheus.Registerer) *Meter {
	m := &Meter{
		o: o, logger: logger, now: time.Now, hours: map[time.Time]*hour{},
		failures: promauto.With(reg).NewCounter(prometheus.CounterOpts{
			Name: "hearth_meter_store_failures_total",
			Help: "Attempts to store the usage of tenants that failed. They are repeated.",
		}),
	}
	// A process that starts again must not replace what it has counted before.
	m.name = fmt.Sprintf("%s-%d", o.Instance, m.now().UnixMilli())
	m.Service = services.NewBasicService(nil, m.run, m.stop)
	return m
}

// of calls f with the record of a tenant in this hour.
func (m *Meter) of(id tenant.ID, f func(*record)) {
	at := m.now().UTC().Truncate(time.Hour)
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.hours[at]
	if h == nil {
		h = &hour{tenants: map[tenant.ID]*record{}}
		m.hours[at] = h
	}
	r := h.tenants[id]
	if r == nil {
		r = &record{Tenant: id}
		h.tenants[id] = r
	}
	h.changes++
	f(r)
}

// Stored counts samples of a write request that were stored, and the request's
// bytes.
func (m *Meter) Stored(id tenant.ID, samples, bytes int) {
	m.of(id, func(r *record) {
		r.SamplesStored += int64(samples)
		r.BytesReceived += int64(bytes)
	})
}

// Refused counts what was refused of a request, by reason, and keeps the first
// error for the tenant to see.
func (m *Meter) Refused(id tenant.ID, first *wire.UserError, counts []wire.RefusalCount) {
	m.of(id, func(r *record) {
		if r.SamplesRefused == nil {
			r.SamplesRefused = map[string]int64{}
		}
		total := 0
		for _, c := range counts {
			r.SamplesRefused[c.ID] += int64(c.Count)
			total += c.Count
		}
		if len(r.Refusals) == keptRefusals {
			r.Refusals = append(r.Refusals[:0], r.Refusals[1:]...)
		}
		r.Refusals = append(r.Refusals, Refusal{At: m.now().UTC(), ID: first.ID, Message: first.Msg, Samples: total})
	})
}

// Queried counts a query.
func (m *Meter) Queried(id tenant.ID) { m.of(id, func(r *record) { r.Queries++ }) }

// Read counts what queries and rules have read.
func (m *Meter) Read(id tenant.ID, series, samples int) {
	if series+samples == 0 {
		return
	}
	m.of(id, func(r *record) {
		r.SeriesRead += int64(series)
		r.SamplesRead += int64(samples)
	})
}

// Answered counts the bytes of an answer.
func (m *Meter) Answered(id tenant.ID, bytes int) {
	m.of(id, func(r *record) { r.BytesRead += int64(bytes) })
}

// Evaluated counts an evaluation of a rule.
func (m *Meter) Evaluated(id tenant.ID) { m.of(id, func(r *record) { r.RuleEvaluations++ }) }

// Notified counts a notification.
func (m *Meter) Notified(id tenant.ID) { m.of(id, func(r *record) { r.Notifications++ }) }

// ObserveBlocks has the meter ask what tenants have stored in a home, their own
// or the pool, as far as this process knows. Call it before the service starts.
func (m *Meter) ObserveBlocks(each func(yield func(id tenant.ID, home bucket.Key, bytes int64))) {
	m.blocks = each
}
