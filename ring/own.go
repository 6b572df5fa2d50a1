package ring

import (
	"github.com/cespare/xxhash/v2"
	dsring "github.com/grafana/dskit/ring"
)

// whole is work that a member does from beginning to end: who stops takes on
// nothing more.
var whole = dsring.NewOp([]dsring.InstanceState{dsring.ACTIVE}, nil)

// Owns says whether a piece of work is this process's: of the healthy members
// the one whose name and the key have the highest hash. When a member comes or
// goes, only what it takes over or had changes hands. For a moment two may
// think that they own a key, or nobody.
func (r *Ring) Owns(key string) bool {
	set, err := r.ring.GetAllHealthy(whole)
	if err != nil {
		return false
	}
	owner, most := "", uint64(0)
	for i := range set.Instances {
		id := set.Instances[i].Id
		if h := xxhash.Sum64String(id + "\x00" + key); owner == "" || h > most || (h == most && id < owner) {
			owner, most = id, h
		}
	}
	return owner == r.cluster.members.Instance.ID
}
