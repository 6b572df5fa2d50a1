package tenant

import (
	"container/heap"
	"strings"
)

// Filter chooses tenants.
type Filter struct {
	Status Status            // "": any
	Plan   string            // "": any
	Labels map[string]string // all of them
	Prefix string            // of the id
}

func (f *Filter) matches(t *Tenant) bool {
	if (f.Status != "" && t.Status != f.Status) || (f.Plan != "" && t.Plan != f.Plan) || !strings.HasPrefix(string(t.ID), f.Prefix) {
		return false
	}
	for name, value := range f.Labels {
		if have, ok := t.Labels[name]; !ok || have != value {
			return false
		}
	}
	return true
}

// Tenants lists the first tenants after an id that a filter chooses, in order
// of their ids, at most limit. Only those few are held and sorted.
func (r *Registry) Tenants(f Filter, after ID, limit int) []Tenant {
	var first lastFirst
	for n := range tenantShards {
		for id, t := range r.shards[n].Load().tenants {
			if id <= after || !f.matches(&t.Tenant) {
				continue
			}
			if len(first) == limit {
				if id >= first[0].ID {
					continue
				}
				heap.Pop(&first)
			}
			heap.Push(&first, &t.Tenant)
		}
	}
	out := make([]Tenant, len(first))
	for i := len(first) - 1; i >= 0; i-- {
		out[i] = *heap.Pop(&first).(*Tenant)
	}
	return out
}

// lastFirst is a heap with the last id on top.
type lastFirst []*Tenant

func (h lastFirst) Len() int           { return len(h) }
func (h lastFirst) Less(i, j int) bool { return h[i].ID > h[j].ID }
func (h lastFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *lastFirst) Push(x any)        { *h = append(*h, x.(*Tenant)) }
func (h *lastFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
