package ruler

import (
	"context"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
)

// members are the rulers that share the work, nil if there is only this one.
func (r *Ruler) members() []ring.Member {
	if r.Cluster == nil {
		return nil
	}
	return r.Cluster.Rulers()
}

func sameMembers(a, b []ring.Member) bool { return slices.Equal(a, b) }

// owner is the ruler that evaluates a group: the one whose name and the group's
// have the highest hash. So a group moves only where its owner is gone, or to a
// ruler that is new. Two that see different members for a moment may both
// evaluate it, which is harmless: what they write is equal.
func owner(members []ring.Member, id tenant.ID, name groupName) (best ring.Member) {
	var highest uint64
	for _, m := range members {
		d := xxhash.New()
		for _, s := range []string{m.ID, string(id), name.namespace, name.group} {
			_, _ = d.WriteString(s) // never fails
			_, _ = d.WriteString("\x00")
		}
		if h := d.Sum64(); h >= highest {
			highest, best = h, m
		}
	}
	return best
}

func (r *Ruler) isOurs(members []ring.Member, id tenant.ID, name groupName) bool {
	return r.Cluster == nil || owner(members, id, name).ID == r.Cluster.Self
}

// place starts the groups that have become ours, changes those that have
// changed, and stops those that are gone, another's now, or of a tenant that is
// not active. r.mu is held.
func (r *Ruler) place(work context.Context, id tenant.ID, t *tenantRules, members []ring.Member) {
	exist := map[groupName]bool{}
	ours := func(name groupName) bool { return t.active && r.isOurs(members, id, name) }
	for namespace, groups := range t.doc.Namespaces {
		for i := range groups {
			name := groupName{namespace, groups[i].Name}
			exist[name] = true
			if !ours(name) {
				continue
			}
			g := t.ours[name]
			if g == nil {
				g = newRunner(work, r, id, name, t)
				t.ours[name] = g
				r.metrics.groups.Inc()
			}
			g.become(&groups[i])
		}
	}
	for name, g := range t.ours {
		switch {
		case !exist[name]:
			r.runners.Go(g.end)
		case !ours(name):
			r.runners.Go(g.stop)
		default:
			continue
		}
		delete(t.ours, name)
		r.metrics.groups.Dec()
	}
}

func (r *Ruler) placeAll(work context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	members := r.members()
	for id, t := range r.tenants {
		r.place(work, id, t, members)
	}
}
