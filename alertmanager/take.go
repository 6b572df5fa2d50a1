package alertmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/alert"
	apiv2 "github.com/prometheus/alertmanager/api/v2"
	"github.com/prometheus/alertmanager/api/v2/models"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/common/model"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// held counts the alerts that a tenant has, as upstream adds and drops them.
type held struct {
	*silence.Silencer
	limits func() *tenant.Limits
	count  atomic.Int64
}

// PostStore implements mem.AlertStoreCallback.
func (h *held) PostStore(a *alert.Alert, existing bool) {
	if !existing {
		h.count.Add(1)
	}
	h.Silencer.PostStore(a, existing)
}

// PostDelete implements mem.AlertStoreCallback.
func (h *held) PostDelete(a *alert.Alert) {
	h.count.Add(-1)
	h.Silencer.PostDelete(a)
}

// take takes posted alerts: those that are valid and within the limits. It is
// upstream's way, without its router, which would have to be kept in memory for
// each tenant.
func (in *instance) take(ctx context.Context, body []byte, at time.Time) (*wire.APIResponse, error) {
	var posted models.PostableAlerts
	if err := json.Unmarshal(body, &posted); err != nil {
		return nil, wire.Errorf(wire.Invalid, "err-alerts-malformed", "the alerts cannot be read: %s", err)
	}
	for _, p := range posted {
		if p == nil {
			return nil, wire.Errorf(wire.Invalid, "err-alerts-malformed", "the alerts cannot be read: one is null")
		}
	}
	in.mu.RLock()
	resolve := in.resolve
	in.mu.RUnlock()

	in.taking.Lock()
	defer in.taking.Unlock()
	var valid []*alert.Alert
	var refused error
	room := in.room()
	for _, a := range apiv2.OpenAPIAlertsToAlerts(ctx, posted) {
		complete(a, at, resolve)
		if err := in.check(a, &room); err != nil {
			in.parent.metrics.dropped.WithLabelValues(err.ID).Inc()
			refused = err
			continue
		}
		if have, err := in.alerts.Get(a.Fingerprint()); err == nil && have.UpdatedAt.After(at) {
			continue // overtaken on the way by what was sent later
		}
		in.parent.metrics.received.WithLabelValues(string(a.Status())).Inc()
		valid = append(valid, a)
	}
	if err := in.alerts.Put(ctx, valid...); err != nil {
		return nil, fmt.Errorf("put alerts: %w", err)
	}
	if len(valid) > 0 {
		in.news.change()
	}
	if refused != nil {
		return nil, refused
	}
	return &wire.APIResponse{Status: http.StatusOK}, nil
}

// complete fills in what a sender may leave out.
func complete(a *alert.Alert, now time.Time, resolve time.Duration) {
	a.UpdatedAt = now
	if a.StartsAt.IsZero() {
		a.StartsAt = now
		if !a.EndsAt.IsZero() {
			a.StartsAt = a.EndsAt
		}
	}
	if a.EndsAt.IsZero() {
		a.Timeout, a.EndsAt = true, now.Add(resolve)
	}
	for name, value := range a.Labels {
		if value == "" {
			delete(a.Labels, name)
		}
	}
}

// room is how many more alerts there may be.
func (in *instance) room() int {
	most := in.parent.limits(in.id).MaxAlerts
	if most == 0 {
		return int(^uint(0) >> 1)
	}
	return most - int(in.held.count.Load())
}

// check refuses what is invalid or over a limit.
func (in *instance) check(a *alert.Alert, room *int) *wire.UserError {
	if err := a.Validate(); err != nil {
		return wire.Errorf(wire.Invalid, "err-alert-invalid", "alert %s is invalid: %s", short(a), err)
	}
	l := in.parent.limits(in.id)
	if size := sizeOf(a.Labels) + sizeOf(a.Annotations); l.MaxAlertSize > 0 && size > l.MaxAlertSize {
		return wire.Errorf(wire.Invalid, "err-alert-too-large", "alert %s has %d bytes of labels and annotations, the limit is %d (limit max_alert_size)", short(a), size, l.MaxAlertSize)
	}
	if _, err := in.alerts.Get(a.Fingerprint()); err == nil {
		return nil // it is there already
	}
	if *room--; *room < 0 {
		err := wire.Errorf(wire.Limited, "err-too-many-alerts", "%d alerts are held, no more may be (limit max_alerts): group what fires into fewer alerts, or ask for a higher limit", l.MaxAlerts)
		err.RetryAfter = time.Minute
		return err
	}
	return nil
}

func short(a *alert.Alert) string {
	name := a.Name()
	if len(name) > 100 {
		name = strings.ToValidUTF8(name[:100], "") + "…"
	}
	return name
}

func sizeOf(set model.LabelSet) (n int) {
	for name, value := range set {
		n += len(name) + len(value)
	}
	return n
}
