package alertmanager

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/common/model"

	"github.com/hearth-metrics/hearth/tenant"
)

// sample is the alert of a test notification.
type sample struct {
	Labels      model.LabelSet `json:"labels"`
	Annotations model.LabelSet `json:"annotations"`
}

// outcome is what became of it.
type outcome struct {
	Integration string `json:"integration"`
	Index       int    `json:"index"`
	Error       string `json:"error,omitempty"`
}

// testTimeout bounds a test notification.
const testTimeout = 15 * time.Second

// test sends a notification through each integration of a receiver of the
// tenant's configuration, and tells what came of it.
func (a *Alertmanager) test(w http.ResponseWriter, r *http.Request, id tenant.ID) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	s := sample{Labels: model.LabelSet{}, Annotations: model.LabelSet{"summary": "A test notification."}}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &s); err != nil {
			return invalid("the alert is not JSON with labels and annotations: %s", err)
		}
	}
	if s.Labels["alertname"] == "" {
		s.Labels = model.LabelSet{"alertname": "TestAlert"}.Merge(s.Labels)
	}
	v, _, err := a.store.current(r.Context(), id)
	if err != nil {
		return notFound(err, "alertmanager storage object not found")
	}
	l, err := a.load(id, v.UserConfig)
	if err != nil {
		return err
	}
	limit := newRate(0)
	if in := a.get(id); in != nil {
		limit = in.rate
	}
	receivers, err := l.receivers(a.door, limit, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	name := r.URL.Query().Get("receiver")
	integrations, ok := receivers[name]
	if !ok {
		return unknownReceiver(name)
	}
	return writeJSON(w, try(r.Context(), name, integrations, s))
}

// try sends one after the other.
func try(ctx context.Context, receiver string, integrations []notify.Integration, s sample) []outcome {
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	now := time.Now()
	ctx = notify.WithNow(ctx, now)
	ctx = notify.WithGroupKey(ctx, "test")
	ctx = notify.WithGroupLabels(ctx, model.LabelSet{"alertname": s.Labels["alertname"]})
	ctx = notify.WithReceiverName(ctx, receiver)
	ctx = notify.WithRepeatInterval(ctx, time.Hour)
	ctx = notify.WithNflogStore(ctx, nflog.NewStore(nil))
	a := &alert.Alert{Alert: model.Alert{Labels: s.Labels, Annotations: s.Annotations, StartsAt: now}, UpdatedAt: now}
	out := make([]outcome, 0, len(integrations))
	for i := range integrations {
		o := outcome{Integration: integrations[i].Name(), Index: integrations[i].Index()}
		if _, err := integrations[i].Notify(ctx, a); err != nil {
			o.Error = err.Error()
		}
		out = append(out, o)
	}
	return out
}
