package alertmanager

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// members are the processes that run alertmanagers; a ring.Ring.
type members interface {
	Members() []ring.Member
	ReplicationFactor() int
}

// Place says on which members a tenant's Alertmanager is, and reaches them. A
// process without alertmanagers uses it to send alerts.
type Place struct {
	members members // nil: there is only this process
	id      string  // of this process
	dial    func(ring.Member) (wire.AlertmanagerServer, error)
	self    wire.AlertmanagerServer // nil: this process has none

	sending sync.WaitGroup
}

// Alone puts all tenants in this process.
func Alone() *Place { return &Place{} }

// Among puts each tenant on some of the members. id is this process, dial
// reaches another.
func Among(m members, id string, dial func(ring.Member) (wire.AlertmanagerServer, error)) *Place {
	return &Place{members: m, id: id, dial: dial}
}

// owners are the members that have a tenant, in the order in which they send:
// those with the highest hashes of tenant and member, so that a member that
// comes or goes moves only what it takes or had. Where there are zones, no two
// are in one zone as long as another has none.
func (p *Place) owners(id tenant.ID) []ring.Member {
	if p.members == nil {
		return []ring.Member{{ID: p.id}}
	}
	all := slices.Clone(p.members.Members())
	slices.SortStableFunc(all, func(a, b ring.Member) int { return cmp.Compare(score(id, b.ID), score(id, a.ID)) })
	rf := min(p.members.ReplicationFactor(), len(all))
	zones := map[string]bool{}
	var first, rest []ring.Member
	for _, m := range all {
		if m.Zone != "" && zones[m.Zone] {
			rest = append(rest, m)
			continue
		}
		zones[m.Zone] = true
		first = append(first, m)
	}
	return append(first, rest...)[:rf]
}

func score(id tenant.ID, member string) uint64 {
	return xxhash.Sum64String(string(id) + "\x00" + member)
}

// position is this process's place among the owners; behind all of them if it
// is none.
func (p *Place) position(id tenant.ID) (n int, owner bool) {
	owners := p.owners(id)
	i := slices.IndexFunc(owners, func(m ring.Member) bool { return m.ID == p.id })
	if i < 0 {
		return len(owners), false
	}
	return i, true
}

// others are the owners besides this process.
func (p *Place) others(id tenant.ID) []ring.Member {
	return slices.DeleteFunc(p.owners(id), func(m ring.Member) bool { return m.ID == p.id })
}

// to reaches a member.
func (p *Place) to(m ring.Member) (wire.AlertmanagerServer, error) {
	if m.ID == p.id && p.self != nil {
		return p.self, nil
	}
	return p.dial(m)
}

// everyone calls all members, and waits for all.
func (p *Place) everyone(ctx context.Context, f func(context.Context, wire.AlertmanagerServer) error) (errs []error) {
	all := []ring.Member{{ID: p.id}}
	if p.members != nil {
		all = p.members.Members()
	}
	errs = make([]error, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		wg.Go(func() {
			am, err := p.to(m)
			if err == nil {
				err = f(ctx, am)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errs
}

// close waits for what is still under way.
func (p *Place) close() { p.sending.Wait() }
