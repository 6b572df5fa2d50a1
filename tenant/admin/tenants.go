package admin

import (
	"maps"
	"net/http"
	"strings"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// TenantRequest is the body that makes a tenant.
type TenantRequest struct {
	ID          tenant.ID         `json:"id"`
	DisplayName string            `json:"display_name"`
	Plan        string            `json:"plan"`
	Labels      map[string]string `json:"labels"`
	Limits      tenant.Overrides  `json:"limits"`
}

// TenantPatch is the body that changes one. What is not there stays; a label
// or a limit that is null goes.
type TenantPatch struct {
	DisplayName *string            `json:"display_name"`
	Status      *tenant.Status     `json:"status"`
	Plan        *string            `json:"plan"`
	Labels      map[string]*string `json:"labels"`
	Limits      tenant.Overrides   `json:"limits"`
}

// Created answers a request that has made a tenant, with all that the caller
// needs next.
type Created struct {
	Tenant    tenant.Tenant `json:"tenant"`
	Token     *SecretToken  `json:"token,omitempty"` // only when the tenant was made by this very request
	Endpoints Endpoints     `json:"endpoints"`
	Snippets  Snippets      `json:"snippets"`
}

// TenantPage is part of the list of tenants.
type TenantPage struct {
	Tenants []tenant.Tenant `json:"tenants"`
	Next    tenant.ID       `json:"next,omitempty"` // the parameter after of the next page; none: this is the last
}

func (a *API) createTenant(r *http.Request) (answer, error) {
	var req TenantRequest
	if err := decode(r, &req); err != nil {
		return answer{}, err
	}
	made, token, secret, err := a.registry.CreateTenant(r.Context(), tenant.Tenant{
		ID: req.ID, DisplayName: req.DisplayName, Plan: req.Plan, Labels: req.Labels, Limits: req.Limits,
	}, tenant.DataScopes)
	if err != nil {
		return answer{}, err
	}
	res := answer{status: http.StatusOK, version: made.Version}
	body := Created{Tenant: made, Endpoints: endpointsOf(r)}
	if token != nil {
		res.status = http.StatusCreated
		body.Token = &SecretToken{Token: *token, Secret: secret}
	}
	body.Snippets = snippetsOf(body.Endpoints, made.ID, secret)
	res.body = body
	return res, nil
}

func (a *API) listTenants(r *http.Request) (answer, error) {
	q := r.URL.Query()
	f := tenant.Filter{Status: tenant.Status(q.Get("status")), Plan: q.Get("plan"), Prefix: q.Get("prefix"), Labels: map[string]string{}}
	for _, l := range q["label"] {
		name, value, ok := strings.Cut(l, "=")
		if !ok {
			return answer{}, invalid("label", "want name=value, got %q", l)
		}
		f.Labels[name] = value
	}
	limit, err := limitParam(r)
	if err != nil {
		return answer{}, err
	}
	page := TenantPage{Tenants: a.registry.Tenants(f, tenant.ID(q.Get("after")), limit+1)}
	if len(page.Tenants) > limit {
		page.Tenants = page.Tenants[:limit]
		page.Next = page.Tenants[limit-1].ID
	}
	return answer{body: page}, nil
}

func pathTenant(r *http.Request) tenant.ID { return tenant.ID(mux.Vars(r)["tenant"]) }

func (a *API) getTenant(r *http.Request) (answer, error) { return a.tenant(pathTenant(r)) }

// getOwn is the administrator's tenant. In header mode it may be one that has
// no record.
func (a *API) getOwn(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	return a.tenant(id)
}

func (a *API) tenant(id tenant.ID) (answer, error) {
	t, ok := a.registry.Tenant(id)
	if !ok {
		return answer{}, wire.Errorf(wire.NotFound, "err-not-found", "there is no tenant %q", id)
	}
	return answer{version: t.Version, body: t}, nil
}

func (a *API) updateTenant(r *http.Request) (answer, error) {
	var patch TenantPatch
	if err := decode(r, &patch); err != nil {
		return answer{}, err
	}
	return a.changeTenant(r, func(version int64) (tenant.Tenant, error) {
		return a.registry.UpdateTenant(r.Context(), pathTenant(r), version, func(t *tenant.Tenant) error {
			patch.apply(t)
			return nil
		})
	})
}

func (p *TenantPatch) apply(t *tenant.Tenant) {
	if p.DisplayName != nil {
		t.DisplayName = *p.DisplayName
	}
	if p.Status != nil {
		t.Status = *p.Status
	}
	if p.Plan != nil {
		t.Plan = *p.Plan
	}
	if t.Labels == nil && len(p.Labels) > 0 {
		t.Labels = map[string]string{}
	}
	for name, value := range p.Labels {
		if value == nil {
			delete(t.Labels, name)
			continue
		}
		t.Labels[name] = *value
	}
	if t.Limits == nil && len(p.Limits) > 0 {
		t.Limits = tenant.Overrides{}
	}
	maps.Copy(t.Limits, p.Limits)
	for name, value := range p.Limits {
		if string(value) == "null" {
			delete(t.Limits, name)
		}
	}
}

func (a *API) deleteTenant(r *http.Request) (answer, error) {
	res, err := a.changeTenant(r, func(version int64) (tenant.Tenant, error) {
		return a.registry.DeleteTenant(r.Context(), pathTenant(r), version)
	})
	res.status = http.StatusAccepted // the data goes later
	return res, err
}

func (a *API) undeleteTenant(r *http.Request) (answer, error) {
	return a.changeTenant(r, func(version int64) (tenant.Tenant, error) {
		return a.registry.Undelete(r.Context(), pathTenant(r), version)
	})
}

func (a *API) changeTenant(r *http.Request, change func(version int64) (tenant.Tenant, error)) (answer, error) {
	version, err := ifMatch(r)
	if err != nil {
		return answer{}, err
	}
	t, err := change(version)
	return answer{version: t.Version, body: t}, err
}
