package ring

import (
	"cmp"
	"slices"
	"time"

	dsring "github.com/grafana/dskit/ring"
)

// Active returns the members that run and were heard of within silence, in
// order of their names. It is for work that two may do for a moment without
// harm, but nobody may leave undone for long: silence can be shorter than what
// a Write or Read is patient for.
func (r *Ring) Active(silence time.Duration) []Member {
	set, err := r.ring.GetAllHealthy(dsring.NewOp([]dsring.InstanceState{dsring.ACTIVE}, nil))
	if err != nil { // there is none
		return nil
	}
	var out []Member
	for i := range set.Instances {
		if d := &set.Instances[i]; time.Since(time.Unix(d.Timestamp, 0)) < silence {
			out = append(out, member(d))
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
