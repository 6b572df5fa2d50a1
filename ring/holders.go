package ring

import dsring "github.com/grafana/dskit/ring"

// ready is asking members that run. For one that does not, the next one in the
// ring stands in.
var ready = dsring.NewOp([]dsring.InstanceState{dsring.ACTIVE}, func(s dsring.InstanceState) bool { return s != dsring.ACTIVE })

// Holders returns the members that hold an item, each of which can be asked
// for it, as many as hold each item or fewer. Items of one shard are spread
// over size members, or a few more where that makes zones even; 0: over all.
func (r *Ring) Holders(shard string, size int, token uint32) ([]Member, error) {
	set, err := r.ring.ShuffleShard(shard, size).Get(token, ready, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	out := make([]Member, len(set.Instances))
	for i := range set.Instances {
		out[i] = member(&set.Instances[i])
	}
	return out, nil
}
