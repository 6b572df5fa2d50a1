package ring

import (
	"context"
	"errors"
	"sync"
	"time"

	dsring "github.com/grafana/dskit/ring"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// toAll is writing to members that stop, too. One that is back is not known to
// be at once: were it left out until then, the next one to restart would be one
// too many. One that leaves for good is read-only before.
var toAll = dsring.NewOp([]dsring.InstanceState{dsring.ACTIVE, dsring.LEAVING}, nil)

// Write sends a tenant's items to the members that hold them. tokens is asked
// for a token of each item, if these decide. prepare is called once for each
// member, concurrently, with the indexes of its items, nil: all of them; what
// it returns does the sending. Every prepare has returned before Write does, so
// the items need not live longer.
//
// Write returns when every item has reached a quorum of its replicas, or
// cannot. Sends that are still under way then go on under a context of their
// own, for at most patience. An error that is the sender's fault (wire.Invalid,
// wire.Limited and the like) is returned as it is.
func (r *Ring) Write(ctx context.Context, id tenant.ID, patience time.Duration, tokens func() []uint32, prepare func(to Member, items []int) func(context.Context) error) error {
	shard := r.shard(id)
	all := r.holdsAll(shard)
	keys := []uint32{0}
	if !all {
		keys = tokens()
	}
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	var preparing sync.WaitGroup
	started := false
	err := dsring.DoBatchWithOptions(ctx, toAll, shard, keys, func(d dsring.InstanceDesc, items []int) error {
		if all {
			items = nil
		}
		send := prepare(member(&d), items)
		preparing.Done()
		return send(lasting)
	}, dsring.DoBatchOptions{
		Cleanup:       cancel,
		IsClientError: isSendersFault,
		Go: func(f func()) { // is called for each member, and once to clean up
			started = true
			preparing.Add(1)
			go f()
		},
	})
	if started {
		preparing.Done() // cleaning up prepares nothing
	}
	preparing.Wait()
	return word(err)
}

// ByToken says that tokens decide which members hold a tenant's items.
func (r *Ring) ByToken(id tenant.ID) bool { return !r.holdsAll(r.shard(id)) }

// shard is the members that a tenant's data is spread over.
func (r *Ring) shard(id tenant.ID) dsring.ReadRing {
	size := 0
	if r.shards != nil {
		size = r.shards.Writes(id)
	}
	return r.ring.ShuffleShard(string(id), size) // leaves out those that are read-only, also where the size is 0
}

// holdsAll says that every member of the shard holds every item, so that
// tokens do not matter.
func (r *Ring) holdsAll(shard dsring.ReadRing) bool {
	n := shard.InstancesCount()
	return n <= r.rf && (r.cluster.members.Instance.Zone == "" || shard.ZonesCount() == n)
}

func isSendersFault(err error) bool {
	switch wire.KindOf(err) {
	case wire.Invalid, wire.Limited, wire.TooLarge, wire.Unsupported:
		return true
	default:
		return false
	}
}

// word says in our words that too few members are there.
func word(err error) error {
	var ue *wire.UserError
	switch {
	case err == nil, errors.As(err, &ue), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	default:
		return errors.Join(err, &wire.UserError{Kind: wire.Unavailable, ID: "err-too-few-replicas", Msg: "too few of the servers that hold this data can be reached, try again", RetryAfter: 2 * time.Second})
	}
}
