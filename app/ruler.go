package app

import (
	"fmt"
	"net/http"
	"time"

	"github.com/hearth-metrics/hearth/alertmanager"
	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/distributor"
	"github.com/hearth-metrics/hearth/querier"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/ruler"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// rulerSilence is after how long without a sign of life, of which there is one
// every five seconds, a ruler's groups are evaluated by others.
const rulerSilence = 20 * time.Second

// addRuler makes the ruler, which reads by this process's querier and writes by
// its distributor, one of all rulers where there are others.
func (a *App) addRuler(b bucket.Bucket, p *peers, place *alertmanager.Place, dist *distributor.Distributor, quer *querier.Querier) error {
	parts := ruler.Parts{
		Bucket: b, Engine: quer.Engine(), Data: quer.Queryable(), Parser: quer.Parser(),
		Writes: dist, Limits: a.registry.Limits, Evaluated: a.meter.Evaluated,
	}
	if place != nil {
		parts.Alerts = ownAlertmanagers{place}
	}
	var member *ring.Membership
	if p.cluster != nil {
		r, err := p.cluster.Ring(targetRuler, nil)
		if err != nil {
			return err
		}
		if member, err = r.Join(); err != nil {
			return err
		}
		changes, err := p.cluster.Store("rule-changes", ruler.ChangesCodec{})
		if err != nil {
			return err
		}
		parts.Cluster = &ruler.Cluster{
			Self:    p.cluster.InstanceID(),
			Rulers:  func() []ring.Member { return r.Active(rulerSilence) },
			Changes: changes,
			Call:    p.way.toRuler,
			Logger:  a.logger,
		}
		a.operators.Handle("/ruler/ring", r).Methods(http.MethodGet, http.MethodPost)
		a.parts = append(a.parts, part{"rulers", r})
	}
	rul, err := ruler.New(a.cfg.Ruler, parts, a.logger, a.reg)
	if err != nil {
		return fmt.Errorf("build the ruler: %w", err)
	}
	rul.RegisterRoutes(a.doors.of(tenant.RulesRead), a.doors.of(tenant.RulesWrite))
	a.parts = append(a.parts, part{"ruler", rul})
	if member != nil { // after the ruler, so that it leaves before that stops
		wire.RegisterRuler(a.grpc, rul)
		a.parts = append(a.parts, part{"ruler-membership", member})
	}
	return nil
}

// toRuler reaches a ruler of another process.
func (w *way) toRuler(m ring.Member) (wire.RulerServer, error) {
	cc, err := w.conn(m.Addr)
	if err != nil {
		return nil, err
	}
	return wire.NewRulerClient(cc), nil
}
