package alertmanager

import (
	"context"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify"

	"github.com/hearth-metrics/hearth/tenant"
)

// CountWith has somebody count the notifications that receivers have taken. It
// is called before the service starts.
func (a *Alertmanager) CountWith(sent func(tenant.ID)) { a.sent = sent }

// counted is receivers whose notifications are counted.
func (in *instance) counted(receivers map[string][]notify.Integration) map[string][]notify.Integration {
	for name, list := range receivers {
		for i := range list {
			inner := list[i]
			list[i] = notify.NewIntegration(&counting{inner, in}, &inner, inner.Name(), inner.Index(), name)
		}
	}
	return receivers
}

type counting struct {
	inner notify.Integration
	in    *instance
}

// Notify implements notify.Notifier.
func (c *counting) Notify(ctx context.Context, alerts ...*alert.Alert) (again bool, err error) {
	if again, err = c.inner.Notify(ctx, alerts...); err == nil {
		c.in.parent.sent(c.in.id)
	}
	return again, err
}
