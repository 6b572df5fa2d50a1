// Package admin is the DESK: the API that tenants, tokens and plans are made
// and changed by, for operators, and for each tenant's own administrator.
//
// In comes JSON, out goes JSON; what is decided, the registry decides. Routes
// are registered at the router of the scope that they need. openapi.json
// describes all of it, and is tested against it. Start reading at
// RegisterRoutes.
package admin

import (
	_ "embed"
	"log/slog"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/tenant"
)

// API serves a registry.
type API struct {
	registry *tenant.Registry
	meter    Meter
	asked    tenant.Rates // hours of usage that tenants have asked for
	logger   *slog.Logger
}

// New makes the API to a registry and to what a meter has counted.
func New(r *tenant.Registry, m Meter, logger *slog.Logger) *API {
	return &API{registry: r, meter: m, logger: logger}
}

// OpenAPI is the description of the API.
//
//go:embed openapi.json
var OpenAPI []byte

// handler answers a request: with a status and what becomes its JSON.
type handler func(r *http.Request) (answer, error)

// RegisterRoutes adds the routes. of is the router of a scope, open that of
// routes without one.
func (a *API) RegisterRoutes(of func(tenant.Scope) *mux.Router, open *mux.Router) {
	open.HandleFunc("/api/v1/openapi.json", serveOpenAPI).Methods(http.MethodGet)

	operators := a.at(of(tenant.Operator))
	operators(http.MethodGet, "/admin/v1/tenants", a.listTenants)
	operators(http.MethodPost, "/admin/v1/tenants", a.createTenant)
	operators(http.MethodGet, "/admin/v1/tenants/{tenant}", a.getTenant)
	operators(http.MethodPatch, "/admin/v1/tenants/{tenant}", a.updateTenant)
	operators(http.MethodDelete, "/admin/v1/tenants/{tenant}", a.deleteTenant)
	operators(http.MethodPost, "/admin/v1/tenants/{tenant}/undelete", a.undeleteTenant)
	operators(http.MethodGet, "/admin/v1/tenants/{tenant}/limits", a.limitsOfPath)
	operators(http.MethodGet, "/admin/v1/plans", a.listPlans)
	operators(http.MethodGet, "/admin/v1/plans/{plan}", a.getPlan)
	operators(http.MethodPut, "/admin/v1/plans/{plan}", a.putPlan)
	operators(http.MethodDelete, "/admin/v1/plans/{plan}", a.deletePlan)
	operators(http.MethodGet, "/admin/v1/tokens", a.listTokens)
	operators(http.MethodPost, "/admin/v1/tokens", a.createToken)
	operators(http.MethodGet, "/admin/v1/tokens/{token}", a.getToken)
	operators(http.MethodDelete, "/admin/v1/tokens/{token}", a.revokeToken)
	operators(http.MethodPost, "/admin/v1/tokens/{token}/rotate", a.rotateToken)
	operators(http.MethodGet, "/admin/v1/usage", a.usageOfAll)
	operators(http.MethodGet, "/admin/v1/audit", a.audit)

	own := a.at(of(tenant.Admin))
	own(http.MethodGet, "/api/v1/tenant", a.getOwn)
	own(http.MethodGet, "/api/v1/tenant/limits", a.limitsOfOwn)
	own(http.MethodGet, "/api/v1/tenant/config", a.configOfOwn)
	own(http.MethodGet, "/api/v1/tenant/usage", a.usageOfOwn)
	own(http.MethodGet, "/api/v1/tenant/refused", a.refusedOfOwn)
	own(http.MethodGet, "/api/v1/tenant/tokens", a.listTokens)
	own(http.MethodPost, "/api/v1/tenant/tokens", a.createToken)
	own(http.MethodGet, "/api/v1/tenant/tokens/{token}", a.getToken)
	own(http.MethodDelete, "/api/v1/tenant/tokens/{token}", a.revokeToken)
	own(http.MethodPost, "/api/v1/tenant/tokens/{token}/rotate", a.rotateToken)

	readers := a.at(of(tenant.MetricsRead))
	readers(http.MethodGet, "/api/v1/user_limits", a.userLimits)
	readers(http.MethodGet, "/api/v1/user_stats", a.userStats)
}

func (a *API) at(r *mux.Router) func(method, path string, h handler) {
	return func(method, path string, h handler) { r.Handle(path, a.serve(h)).Methods(method) }
}

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(OpenAPI) // the client has hung up: nobody to tell
}

// owner says whose tokens a request is about: those of the tenant in its
// context, or, for an operator, all.
func owner(r *http.Request) tenant.Owner {
	ids, _, err := tenant.AllFromContext(r.Context())
	if err != nil {
		return tenant.Owner{All: true}
	}
	return tenant.Owner{Tenant: ids[0]} // on these routes there is one
}
