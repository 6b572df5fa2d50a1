package tenant

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/hearth-metrics/hearth/wire"
)

// Errors of changes that say what the caller's picture of the world lacks.
func errNotFound(what, id string) error {
	return wire.Errorf(wire.NotFound, "err-not-found", "there is no %s %q", what, id)
}

func errChanged(what, id string) error {
	return wire.Errorf(wire.Changed, "err-changed-meanwhile", "the %s %q has been changed since you read it; read it again and decide anew", what, id)
}

func errConflict(format string, args ...any) error {
	return wire.Errorf(wire.Conflict, "err-conflict", format, args...)
}

// CreateTenant makes a tenant, and in the same write its first token, whose
// secret is returned and kept nowhere. If there is a tenant already that was
// made by the same request, it is returned, without a token; another one is a
// conflict.
func (r *Registry) CreateTenant(ctx context.Context, want Tenant, scopes Scopes) (made Tenant, token *Token, secret string, err error) {
	want.Status = Active
	if err := errorOf(want.validate(), r.checkPlan(want.Plan)); err != nil {
		return Tenant{}, nil, "", err
	}
	n := shardOf(want.ID)
	first := &tokenEntry{Token: Token{ID: mintID(n), Tenant: want.ID, Name: "first", Scopes: scopes}}
	secret, first.hash = mintSecret(first.ID)
	created := false
	err = r.change(ctx, n, func(d *draft) error {
		if have := d.tenants[want.ID]; have != nil {
			made, created = have.Tenant, false
			return sameTenant(&have.Tenant, &want)
		}
		want.CreatedAt, want.UpdatedAt, want.Version = d.at, d.at, d.version
		first.CreatedAt, first.Version = d.at, d.version
		d.tenants[want.ID], d.tokens[first.ID] = &tenantEntry{Tenant: want}, first
		d.note(ctx, n, AuditEntry{Action: "tenant.create", Tenant: want.ID, Object: first.ID})
		made, created = want, true
		return nil
	})
	if err != nil || !created {
		return made, nil, "", err
	}
	return made, &first.Token, secret, nil
}

// sameTenant is no error only if a request to create want has made have.
func sameTenant(have, want *Tenant) error {
	switch {
	case have.Status == Deleting:
		return errConflict("the tenant %q is being deleted; undelete it, or wait until its data is gone", have.ID)
	case have.DisplayName != want.DisplayName, have.Plan != want.Plan,
		!maps.Equal(have.Labels, want.Labels), !sameLimits(have.Limits, want.Limits):
		return errConflict("there is a tenant %q already, with other properties; change it with PATCH", have.ID)
	}
	return errNoChange
}

func sameLimits(a, b Overrides) bool {
	return maps.EqualFunc(a, b, func(x, y json.RawMessage) bool { return string(x) == string(y) })
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkPlan refuses a plan that is not known.
func (r *Registry) checkPlan(name string) error {
	if name != "" && r.plan(name) == nil {
		return fieldError("plan", "there is no plan %q", name)
	}
	return nil
}

// Any is the version of a change that does not care what it replaces.
const Any int64 = 0

// UpdateTenant changes a tenant of a version, or of Any. f changes a copy of
// the record; not all of it can be changed.
func (r *Registry) UpdateTenant(ctx context.Context, id ID, version int64, f func(*Tenant) error) (Tenant, error) {
	var after Tenant
	n := shardOf(id)
	err := r.change(ctx, n, func(d *draft) error {
		have := d.tenants[id]
		if have == nil {
			return errNotFound("tenant", string(id))
		}
		if version != Any && version != have.Version {
			return errChanged("tenant", string(id))
		}
		after = have.Tenant
		after.Labels, after.Limits = maps.Clone(after.Labels), maps.Clone(after.Limits)
		if err := f(&after); err != nil {
			return err
		}
		after.ID, after.CreatedAt = id, have.CreatedAt
		fields := changedFields(&have.Tenant, &after)
		if len(fields) == 0 {
			return errNoChange
		}
		if err := errorOf(after.validate(), r.checkPlan(after.Plan), checkStatus(&have.Tenant, &after)); err != nil {
			return err
		}
		after.UpdatedAt, after.Version = d.at, d.version
		d.tenants[id] = &tenantEntry{Tenant: after}
		d.note(ctx, n, AuditEntry{Action: "tenant.update", Tenant: id, Detail: strings.Join(fields, ", ")})
		return nil
	})
	return after, err
}

// checkStatus keeps changes of a deletion to DeleteTenant and Undelete.
func checkStatus(have, after *Tenant) error {
	switch {
	case have.Status == Deleting && after.Deletion != nil:
		return errConflict("the tenant %q is being deleted; undelete it first", have.ID)
	case after.Status == Deleting && after.Deletion == nil:
		return fieldError("status", "a tenant is deleted with DELETE")
	}
	return nil
}

// changedFields names the fields that differ.
func changedFields(a, b *Tenant) []string {
	var fields []string
	x, y := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range x.NumField() {
		if !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			fields = append(fields, name)
		}
	}
	return fields
}

// DeleteTenant begins a deletion: the tenant's requests are refused from now
// on, and after a delay its data goes.
func (r *Registry) DeleteTenant(ctx context.Context, id ID, version int64) (Tenant, error) {
	return r.UpdateTenant(ctx, id, version, func(t *Tenant) error {
		if t.Status == Deleting {
			return errNoChange
		}
		now := r.now().UTC()
		t.Deletion = &Deletion{RequestedAt: now, RemoveAfter: now.Add(time.Duration(r.cfg.DeleteDelay)), Before: t.Status}
		t.Status = Deleting
		return nil
	})
}

// Undelete takes a deletion back, as long as no data may be gone.
func (r *Registry) Undelete(ctx context.Context, id ID, version int64) (Tenant, error) {
	return r.UpdateTenant(ctx, id, version, func(t *Tenant) error {
		switch {
		case t.Status != Deleting:
			return errNoChange
		case !r.now().Before(t.Deletion.RemoveAfter):
			return errConflict("the data of the tenant %q is being removed since %s", id, t.Deletion.RemoveAfter.Format(time.RFC3339))
		}
		t.Status, t.Deletion = t.Deletion.Before, nil
		return nil
	})
}

// Doomed is the tenants whose data has to go, each with the time since when:
// from then on their deletion cannot be undone. Whoever has removed all data of
// one calls Removed.
func (r *Registry) Doomed() map[ID]time.Time {
	ids, now := map[ID]time.Time{}, r.now()
	for n := range tenantShards {
		for id, t := range r.shards[n].Load().tenants {
			if t.Status == Deleting && !now.Before(t.Deletion.RemoveAfter) {
				ids[id] = t.Deletion.RemoveAfter
			}
		}
	}
	return ids
}

// Removed ends a deletion: the tenant's record and its tokens go. It can be
// repeated.
func (r *Registry) Removed(ctx context.Context, id ID) error {
	n := shardOf(id)
	return r.change(ctx, n, func(d *draft) error {
		t := d.tenants[id]
		switch {
		case t == nil:
			return errNoChange
		case t.Status != Deleting || d.at.Before(t.Deletion.RemoveAfter):
			return errConflict("the tenant %q is not to be removed", id)
		}
		delete(d.tenants, id)
		maps.DeleteFunc(d.tokens, func(_ string, k *tokenEntry) bool { return k.Tenant == id })
		d.note(ctx, n, AuditEntry{Action: "tenant.removed", Tenant: id})
		return nil
	})
}
