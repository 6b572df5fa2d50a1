package tenant

import "reflect"

// planLimits is the limits of all plans. When a plan changes, another takes its
// place, by which limits that were derived from it are known to be old.
type planLimits struct {
	byName map[string]*Limits
}

// derivedLimits are a tenant's limits, from one state of the plans.
type derivedLimits struct {
	from   *planLimits
	limits *Limits
}

func (r *Registry) planLimits(plans map[string]*Plan) *planLimits {
	p := &planLimits{byName: map[string]*Limits{}}
	for name, plan := range plans {
		l := r.limits.Defaults
		if err := plan.Limits.apply(&l); err != nil {
			// It was checked when it was stored: another version of Hearth has
			// a limit that this one does not know. The rest of them holds.
			r.logger.Warn("plan has a limit that is not known here", "plan", name, "err", err)
		}
		p.byName[name] = &l
	}
	for name, l := range r.limits.Plans { // what the configuration says goes first
		p.byName[name] = &l
	}
	return p
}

// plan is a plan of the configuration, or else of the API; nil if there is none.
func (r *Registry) plan(name string) *Plan {
	if l, ok := r.limits.Plans[name]; ok {
		return &Plan{Name: name, Source: PlanOfConfig, Limits: l.differing(&r.limits.Defaults)}
	}
	p := r.shards[sharedShard].Load().plans[name]
	if p == nil {
		return nil
	}
	made := *p
	made.Source = PlanOfAPI
	return &made
}

// warnOfHiddenPlans tells of plans that were made by the API and do not count.
func (r *Registry) warnOfHiddenPlans() {
	for name := range r.shards[sharedShard].Load().plans {
		if _, ok := r.limits.Plans[name]; ok {
			r.logger.Warn("plan of the API does not count: the configuration has another of this name", "plan", name)
		}
	}
}

// base is what a plan's tenants start from.
func (r *Registry) base(p *planLimits, plan string) *Limits {
	if l := p.byName[plan]; l != nil {
		return l
	}
	return &r.limits.Defaults
}

// Limits returns the limits of a tenant: the defaults, with what its plan and
// then its own overrides replace. For a tenant that the registry does not know
// the configuration has the overrides. It is cheap enough to be called on every
// request; the caller does not change what it points to.
func (r *Registry) Limits(id ID) *Limits {
	e := r.tenant(id)
	if e == nil {
		return r.limits.Of(id)
	}
	p := r.plans.Load()
	if len(e.Tenant.Limits) == 0 {
		return r.base(p, e.Plan)
	}
	if d := e.derived.Load(); d != nil && d.from == p {
		return d.limits
	}
	l := *r.base(p, e.Plan)
	if err := e.Tenant.Limits.apply(&l); err != nil {
		r.logger.Warn("tenant has a limit that is not known here", "tenant", id, "err", err)
	}
	e.derived.Store(&derivedLimits{p, &l})
	return &l
}

// EffectiveLimits are a tenant's limits with where each comes from.
func (r *Registry) EffectiveLimits(id ID) map[string]EffectiveLimit {
	var plan, own Overrides
	if e := r.tenant(id); e != nil {
		own = e.Tenant.Limits
		if p := r.plan(e.Plan); p != nil {
			plan = p.Limits
		}
	}
	limits, everyone := r.Limits(id), r.limits.Defaults
	isOfAll := func(name string) bool {
		i := limitFields[name]
		return reflect.DeepEqual(reflect.ValueOf(*limits).Field(i).Interface(), reflect.ValueOf(everyone).Field(i).Interface())
	}
	all := map[string]EffectiveLimit{}
	for name, value := range limits.eachLimit() {
		l := EffectiveLimit{Value: value, Source: FromDefaults}
		if _, ok := plan[name]; ok {
			l.Source = FromPlan
		}
		_, overridden := own[name]
		// A tenant of the configuration has all limits; its own are those that differ.
		inConfig := own == nil && plan == nil && !isOfAll(name)
		if overridden || inConfig {
			l.Source = FromTenant
		}
		all[name] = l
	}
	return all
}
