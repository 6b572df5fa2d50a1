package tenant

import (
	"context"
	"maps"
	"slices"

	"github.com/hearth-metrics/hearth/wire"
)

// Plans lists the plans, in order of their names.
func (r *Registry) Plans() []Plan {
	names := map[string]bool{}
	for name := range r.limits.Plans {
		names[name] = true
	}
	for name := range r.shards[sharedShard].Load().plans {
		names[name] = true
	}
	list := []Plan{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if p := r.plan(name); p != nil {
			list = append(list, *p)
		}
	}
	return list
}

// Plan returns a plan.
func (r *Registry) Plan(name string) (Plan, error) {
	if p := r.plan(name); p != nil {
		return *p, nil
	}
	return Plan{}, errNotFound("plan", name)
}

// checkOfAPI refuses to change what is in the configuration.
func (r *Registry) checkOfAPI(name string) error {
	if _, ok := r.limits.Plans[name]; !ok {
		return nil
	}
	return wire.Errorf(wire.Conflict, "err-plan-of-config", "the plan %q is in the configuration (limits.plans); change it there", name)
}

// PutPlan makes a plan, or replaces one of a version, or of Any.
func (r *Registry) PutPlan(ctx context.Context, want Plan, version int64) (Plan, error) {
	if err := errorOf(r.checkOfAPI(want.Name), want.validate()); err != nil {
		return Plan{}, err
	}
	want.Source = ""
	err := r.change(ctx, sharedShard, func(d *draft) error {
		have := d.plans[want.Name]
		if version != Any && (have == nil || have.Version != version) {
			return errChanged("plan", want.Name)
		}
		if have != nil && sameLimits(have.Limits, want.Limits) {
			want = *have
			return errNoChange
		}
		want.UpdatedAt, want.Version = d.at, d.version
		made := want
		d.plans[want.Name] = &made
		d.note(ctx, sharedShard, AuditEntry{Action: "plan.put", Object: want.Name})
		return nil
	})
	want.Source = PlanOfAPI
	return want, err
}

// DeletePlan removes a plan that no tenant has. A tenant that gets the plan at
// the same moment has the defaults from then on.
func (r *Registry) DeletePlan(ctx context.Context, name string, version int64) error {
	if err := r.checkOfAPI(name); err != nil {
		return err
	}
	for n := range tenantShards {
		for id, t := range r.shards[n].Load().tenants {
			if t.Plan == name {
				return errConflict("the plan %q is in use, by the tenant %q for one; give its tenants another", name, id)
			}
		}
	}
	return r.change(ctx, sharedShard, func(d *draft) error {
		have := d.plans[name]
		switch {
		case have == nil:
			return errNotFound("plan", name)
		case version != Any && have.Version != version:
			return errChanged("plan", name)
		}
		delete(d.plans, name)
		d.note(ctx, sharedShard, AuditEntry{Action: "plan.delete", Object: name})
		return nil
	})
}
