package app

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/alertmanager"
	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/wire"
)

// buildAlertmanager adds the alertmanager of this process, and in a cluster
// the ring of all.
func (a *App) buildAlertmanager(b bucket.Bucket, p *peers, tenants *mux.Router) error {
	cfg := a.cfg.Alertmanager
	if cfg.ExternalURL == "" {
		cfg.ExternalURL = a.scheme() + "://" + reachable(a.cfg.Server.HTTPListenAddress) + "/alertmanager"
	}
	place := alertmanager.Alone()
	var member *ring.Membership
	if p.cluster != nil {
		r, err := p.cluster.Ring(targetAlertmanager, nil)
		if err != nil {
			return err
		}
		if member, err = r.Join(); err != nil {
			return err
		}
		a.routes.Handle("/multitenant_alertmanager/ring", r).Methods(http.MethodGet, http.MethodPost)
		a.parts = append(a.parts, part{"alertmanagers", r})
		place = alertmanager.Among(r, p.cluster.InstanceID(), p.way.toAlertmanager)
	}
	am, err := alertmanager.New(cfg, b, place, a.cfg.Limits.Of, a.logger, a.reg)
	if err != nil {
		return err
	}
	am.RegisterRoutes(tenants)
	am.RegisterOperatorRoutes(a.routes)
	a.parts = append(a.parts, part{"alertmanager", am})
	if member != nil { // last: others send work when it runs
		wire.RegisterAlertmanager(a.grpc, am.Server())
		a.parts = append(a.parts, part{"alertmanager-membership", member})
	}
	return nil
}

// toAlertmanager reaches the alertmanager of another process.
func (w *way) toAlertmanager(m ring.Member) (wire.AlertmanagerServer, error) {
	cc, err := w.conn(m.Addr)
	if err != nil {
		return nil, err
	}
	return wire.NewAlertmanagerClient(cc), nil
}
