package tenant

import (
	"context"
	"slices"
	"strings"
)

// Plans lists the plans, in order of their names.
func (r *Registry) Plans() []Plan {
	list := []Plan{}
	for _, p := range r.shards[sharedShard].Load().plans {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b Plan) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Plan returns a plan.
func (r *Registry) Plan(name string) (Plan, error) {
	if p := r.shards[sharedShard].Load().plans[name]; p != nil {
		return *p, nil
	}
	return Plan{}, errNotFound("plan", name)
}

// PutPlan makes a plan, or replaces one of a version, or of Any.
func (r *Registry) PutPlan(ctx context.Context, want Plan, version int64) (Plan, error) {
	if err := want.validate(); err != nil {
		return Plan{}, err
	}
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
	return want, err
}

// DeletePlan removes a plan that no tenant has. A tenant that gets the plan at
// the same moment has the defaults from then on.
func (r *Registry) DeletePlan(ctx context.Context, name string, version int64) error {
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
