package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/config/receiver"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/notify/email"
	"github.com/prometheus/alertmanager/template"
	commoncfg "github.com/prometheus/common/config"
	"golang.org/x/time/rate"

	"github.com/hearth-metrics/hearth/wire"
)

// receivers makes what sends, by the receivers' names.
func (l *loaded) receivers(door firewall, limit *rate.Limiter, logger *slog.Logger) (map[string][]notify.Integration, error) {
	all := make(map[string][]notify.Integration, len(l.conf.Receivers))
	for _, rc := range l.conf.Receivers {
		var err error
		if all[rc.Name], err = l.integrations(rc, door, limit, logger); err != nil {
			return nil, fmt.Errorf("receiver %q: %w", rc.Name, err)
		}
	}
	return all, nil
}

// integrations makes what sends for one receiver. Connections are not kept:
// there is a notification now and then, and there are many tenants.
func (l *loaded) integrations(rc config.Receiver, door firewall, limit *rate.Limiter, logger *slog.Logger) ([]notify.Integration, error) {
	mails := rc.EmailConfigs
	rc.EmailConfigs = nil
	made, err := receiver.BuildReceiverIntegrations(rc, l.templates, logger, commoncfg.WithDialContextFunc(door.dial), commoncfg.WithKeepAlivesDisabled())
	if err != nil {
		return nil, err
	}
	for i, c := range mails {
		made = append(made, notify.NewIntegration(&mail{c, l.templates, door, logger}, c, "email", i, rc.Name))
	}
	out := make([]notify.Integration, len(made))
	for i := range made {
		out[i] = notify.NewIntegration(&guarded{&made[i], limit}, &made[i], made[i].Name(), made[i].Index(), rc.Name)
	}
	return out, nil
}

// mail sends e-mail. Upstream dials by itself, so it is given an address that
// the firewall has passed, with the host's name for TLS.
type mail struct {
	conf      *config.EmailConfig
	templates *template.Template
	door      firewall
	logger    *slog.Logger
}

// Notify implements notify.Notifier.
func (m *mail) Notify(ctx context.Context, alerts ...*alert.Alert) (bool, error) {
	conf := *m.conf
	if m.door.block {
		addr, err := m.door.resolve(ctx, conf.Smarthost.Host)
		if err != nil {
			return !errors.As(err, new(*wire.UserError)), fmt.Errorf("find the mail server: %w", err)
		}
		tls := commoncfg.TLSConfig{}
		if conf.TLSConfig != nil {
			tls = *conf.TLSConfig
		}
		if tls.ServerName == "" {
			tls.ServerName = conf.Smarthost.Host
		}
		conf.TLSConfig, conf.Smarthost.Host = &tls, addr.String()
	}
	return email.New(&conf, m.templates, m.logger).Notify(ctx, alerts...)
}

// guarded holds a tenant's notifications to its rate, and keeps a defect in
// one receiver from stopping the process.
type guarded struct {
	inner *notify.Integration
	limit *rate.Limiter
}

// Notify implements notify.Notifier.
func (g *guarded) Notify(ctx context.Context, alerts ...*alert.Alert) (again bool, err error) {
	if !g.limit.Allow() {
		return true, wire.Errorf(wire.Limited, "err-notification-rate", "more notifications than %g per second (limit notification_rate)", float64(g.limit.Limit()))
	}
	defer func() {
		if p := recover(); p != nil {
			again, err = false, fmt.Errorf("receiver panicked: %v", p)
		}
	}()
	return g.inner.Notify(ctx, alerts...)
}
