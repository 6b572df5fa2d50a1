package admin

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/tenant"
)

// PlanRequest is the body that makes or replaces a plan.
type PlanRequest struct {
	Limits tenant.Overrides `json:"limits"`
}

// PlanList is all plans.
type PlanList struct {
	Plans []tenant.Plan `json:"plans"`
}

func (a *API) listPlans(*http.Request) (answer, error) {
	return answer{body: PlanList{a.registry.Plans()}}, nil
}

func (a *API) getPlan(r *http.Request) (answer, error) {
	p, err := a.registry.Plan(mux.Vars(r)["plan"])
	return answer{version: p.Version, body: p}, err
}

func (a *API) putPlan(r *http.Request) (answer, error) {
	var req PlanRequest
	if err := decode(r, &req); err != nil {
		return answer{}, err
	}
	version, err := ifMatch(r)
	if err != nil {
		return answer{}, err
	}
	p, err := a.registry.PutPlan(r.Context(), tenant.Plan{Name: mux.Vars(r)["plan"], Limits: req.Limits}, version)
	return answer{version: p.Version, body: p}, err
}

func (a *API) deletePlan(r *http.Request) (answer, error) {
	version, err := ifMatch(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, a.registry.DeletePlan(r.Context(), mux.Vars(r)["plan"], version)
}
