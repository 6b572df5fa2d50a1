package app

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/prometheus/notifier"

	"github.com/hearth-metrics/hearth/alertmanager"
	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// placeAlertmanagers says on which members the tenants' Alertmanagers are: in
// this process, or, where there are others, in those that run the part. It is
// nil where there is none. The membership is this process's, if it is one.
func (a *App) placeAlertmanagers(p *peers) (*alertmanager.Place, *ring.Membership, error) {
	runs := a.cfg.runs(targetAlertmanager)
	if p.cluster == nil {
		if !runs {
			return nil, nil, nil
		}
		return alertmanager.Alone(), nil, nil
	}
	if !runs && !a.cfg.runs(targetRuler) && !a.cfg.runs(targetQuerier) {
		return nil, nil, nil
	}
	r, err := p.cluster.Ring(targetAlertmanager, nil)
	if err != nil {
		return nil, nil, err
	}
	a.operators.Handle("/multitenant_alertmanager/ring", r).Methods(http.MethodGet, http.MethodPost)
	a.parts = append(a.parts, part{"alertmanagers", r})
	p.alertmanagers = r
	place := alertmanager.Among(r, p.cluster.InstanceID(), p.way.toAlertmanager)
	if !runs {
		return place, nil, nil
	}
	member, err := r.Join()
	return place, member, err
}

// addAlertmanager adds the alertmanager of this process.
func (a *App) addAlertmanager(b bucket.Bucket, place *alertmanager.Place, member *ring.Membership) error {
	cfg := a.cfg.Alertmanager
	if cfg.ExternalURL == "" {
		cfg.ExternalURL = a.scheme() + "://" + reachable(a.cfg.Server.HTTPListenAddress) + "/alertmanager"
	}
	if cfg.PrivateAddresses == "" && a.cfg.Auth.Mode == tenant.ModeToken {
		cfg.PrivateAddresses = alertmanager.Block
	}
	am, err := alertmanager.New(cfg, bucket.For(b, targetAlertmanager), place, a.registry.Limits, a.logger, a.reg)
	if err != nil {
		return fmt.Errorf("build the alertmanager: %w", err)
	}
	am.CountWith(a.meter.Notified)
	am.RegisterRoutes(a.doors.of(tenant.AlertsRead), a.doors.of(tenant.AlertsWrite))
	am.RegisterOpenRoutes(a.doors.open())
	am.RegisterOperatorRoutes(a.operators)
	a.parts = append(a.parts, part{"alertmanager", am})
	if member != nil { // last: others send work when it runs
		wire.RegisterAlertmanager(a.grpc, am.Server())
		a.parts = append(a.parts, part{"alertmanager-membership", member})
	}
	return nil
}

// ownAlertmanagers brings the ruler's alerts to the tenants' own Alertmanagers.
type ownAlertmanagers struct{ place *alertmanager.Place }

// Notify implements ruler.Notifier.
func (o ownAlertmanagers) Notify(ctx context.Context, id tenant.ID, alerts []*notifier.Alert) error {
	return o.place.Send(ctx, id, alerts...)
}

// toAlertmanager reaches the alertmanager of another process.
func (w *way) toAlertmanager(m ring.Member) (wire.AlertmanagerServer, error) {
	cc, err := w.conn(m.Addr)
	if err != nil {
		return nil, err
	}
	return wire.NewAlertmanagerClient(cc), nil
}
