package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/notifier"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// alertsPath is where alerts are posted.
const alertsPath = "/api/v2/alerts"

// Send gives alerts to a tenant's Alertmanager. It returns when most of its
// replicas have them. A tenant that has none configured needs none: that is no
// error.
func (p *Place) Send(ctx context.Context, id tenant.ID, alerts ...*notifier.Alert) error {
	body, err := json.Marshal(postable(alerts))
	if err != nil {
		return fmt.Errorf("encode alerts: %w", err)
	}
	res, err := p.post(ctx, &wire.APIRequest{Tenant: string(id), Method: http.MethodPost, Path: alertsPath, Body: body})
	if wire.KindOf(err) == wire.NotFound && err != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("send alerts: %w", err)
	}
	if res.Status/100 != 2 {
		return fmt.Errorf("send alerts: %s", res.Body)
	}
	return nil
}

// patience is how long a replica that is slow is still told.
const patience = 10 * time.Second

// post sends a request to all owners. It returns with the answer of most of
// them, or the worst one.
func (p *Place) post(ctx context.Context, r *wire.APIRequest) (*wire.APIResponse, error) {
	r.At = time.Now()
	owners := p.owners(tenant.ID(r.Tenant))
	type answer struct {
		res *wire.APIResponse
		err error
	}
	answers := make(chan answer, len(owners))
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	left := len(owners)
	for _, m := range owners {
		p.sending.Go(func() {
			res, err := p.serve(lasting, m, r)
			answers <- answer{res, err}
		})
	}
	var errs []error
	var last *wire.APIResponse
	for need := left/2 + 1; left > 0 && need > 0; left-- {
		select {
		case got := <-answers:
			if got.err != nil {
				errs = append(errs, got.err)
				continue
			}
			last = got.res
			need--
		case <-ctx.Done():
			p.sending.Go(func() { drain(answers, left, cancel) })
			return nil, ctx.Err()
		}
		if need == 0 {
			left--
			p.sending.Go(func() { drain(answers, left, cancel) })
			return last, nil
		}
	}
	cancel()
	return nil, unreachable(errs)
}

// drain ends the context when all have answered.
func drain[T any](answers <-chan T, left int, cancel context.CancelFunc) {
	defer cancel()
	for range left {
		<-answers
	}
}

// ask sends a request to the first owner that answers. All ask in the same
// order, so that who has changed something sees it wherever it comes in.
func (p *Place) ask(ctx context.Context, r *wire.APIRequest) (*wire.APIResponse, error) {
	var errs []error
	for _, m := range p.owners(tenant.ID(r.Tenant)) {
		res, err := p.serve(ctx, m, r)
		if err == nil || (wire.KindOf(err) != wire.Unavailable && wire.KindOf(err) != wire.Internal) {
			return res, err
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, unreachable(errs)
}

func (p *Place) serve(ctx context.Context, m ring.Member, r *wire.APIRequest) (*wire.APIResponse, error) {
	am, err := p.to(m)
	if err != nil {
		return nil, err
	}
	return am.Serve(ctx, r)
}

// unreachable is the first error that says something to the tenant.
func unreachable(errs []error) error {
	var ue *wire.UserError
	for _, err := range errs {
		if errors.As(err, &ue) && ue.Kind != wire.Unavailable {
			return err
		}
	}
	return errors.Join(errNotHere(), errors.Join(errs...))
}

// postedAlert is an alert as the API takes it.
type postedAlert struct {
	Labels       json.Marshaler `json:"labels"`
	Annotations  json.Marshaler `json:"annotations,omitempty"`
	StartsAt     time.Time      `json:"startsAt,omitzero"`
	EndsAt       time.Time      `json:"endsAt,omitzero"`
	GeneratorURL string         `json:"generatorURL,omitempty"`
}

func postable(alerts []*notifier.Alert) []postedAlert {
	out := make([]postedAlert, len(alerts))
	for i, a := range alerts {
		out[i] = postedAlert{a.Labels, a.Annotations, a.StartsAt, a.EndsAt, a.GeneratorURL}
	}
	return out
}
