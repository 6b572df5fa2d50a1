package app

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

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

// findRulers follows the rulers of a cluster where somebody here asks for them.
func (a *App) findRulers(p *peers) (err error) {
	if p.cluster == nil || !a.cfg.runs(targetRuler) && !a.cfg.runs(targetQuerier) {
		return nil
	}
	if p.rulers, err = p.cluster.Ring(targetRuler, nil); err != nil {
		return err
	}
	a.operators.Handle("/ruler/ring", p.rulers).Methods(http.MethodGet, http.MethodPost)
	a.parts = append(a.parts, part{"rulers", p.rulers})
	return nil
}

// beside says what answers beside a querier, as far as it is known now.
func (a *App) beside(p *peers) func() querier.Beside {
	if p.cluster == nil {
		b := querier.Beside{Rules: a.cfg.runs(targetRuler), Alerts: a.cfg.runs(targetAlertmanager)}
		return func() querier.Beside { return b }
	}
	return func() querier.Beside {
		return querier.Beside{Rules: len(p.rulers.Members()) > 0, Alerts: len(p.alertmanagers.Members()) > 0}
	}
}

// addRuler makes the ruler, which reads by this process's querier and writes by
// its distributor, one of all rulers where there are others.
func (a *App) addRuler(b bucket.Bucket, p *peers, place *alertmanager.Place, dist *distributor.Distributor, quer *querier.Querier) error {
	parts := ruler.Parts{
		Bucket: bucket.For(b, targetRuler), Engine: quer.Engine(), Data: quer.Queryable(), Parser: quer.Parser(),
		Writes: dist, Limits: a.registry.Limits, Status: a.statusOf, Evaluated: a.meter.Evaluated,
	}
	if place != nil {
		parts.Alerts = ownAlertmanagers{place}
	}
	var member *ring.Membership
	if p.cluster != nil {
		var err error
		if member, err = p.rulers.Join(); err != nil {
			return err
		}
		changes, err := p.cluster.Store("rule-changes", ruler.ChangesCodec{})
		if err != nil {
			return err
		}
		parts.Cluster = &ruler.Cluster{
			Self:    p.cluster.InstanceID(),
			Rulers:  func() []ring.Member { return p.rulers.Active(rulerSilence) },
			Changes: changes,
			Call:    p.way.toRuler,
			Logger:  a.logger,
		}
	}
	rul, err := ruler.New(a.cfg.Ruler, parts, a.logger, a.reg)
	if err != nil {
		return fmt.Errorf("build the ruler: %w", err)
	}
	rul.RegisterRoutes(a.doors.of(tenant.RulesRead), a.doors.of(tenant.RulesWrite))
	rul.RegisterOperatorRoutes(a.operators)
	a.parts = append(a.parts, part{"ruler", rul})
	if member != nil { // after the ruler, so that it leaves before that stops
		wire.RegisterRuler(a.grpc, rul)
		a.parts = append(a.parts, part{"ruler-membership", member})
	}
	return nil
}

// statusOf is a tenant's status; one that is not in the registry is active.
func (a *App) statusOf(id tenant.ID) tenant.Status {
	if t, ok := a.registry.Tenant(id); ok {
		return t.Status
	}
	return tenant.Active
}

// Parser reads expressions as queriers and rulers do, for those that check
// rules without a running Hearth.
func Parser() parser.Parser { return querier.NewParser() }

// toRuler reaches a ruler of another process.
func (w *way) toRuler(m ring.Member) (wire.RulerServer, error) {
	cc, err := w.conn(m.Addr)
	if err != nil {
		return nil, err
	}
	return wire.NewRulerClient(cc), nil
}
