package ring

import (
	"context"
	"time"

	dsring "github.com/grafana/dskit/ring"

	"github.com/hearth-metrics/hearth/tenant"
)

const (
	// hedgeAfter is how long one member may take before another is asked too.
	hedgeAfter = 500 * time.Millisecond

	// lookback is how long a member that has left a tenant's shard is still
	// asked: until what it held is in the bucket and gateways know of it.
	lookback = 13 * time.Hour
)

// Read asks as many members as are needed to see everything that a quorum has
// of a tenant: one less than all replicas where three hold each series, zone by
// zone where there are zones, and another when one fails or is slow. It returns
// their answers, or an error if too few of them can answer. discard is called
// with answers that are not returned.
func Read[T any](ctx context.Context, r *Ring, id tenant.ID, ask func(ctx context.Context, from Member) (T, error), discard func(T)) ([]T, error) {
	size := 0
	if r.shards != nil {
		size = r.shards.Reads(id)
	}
	set, err := r.ring.ShuffleShardWithLookback(string(id), size, lookback, time.Now()).GetReplicationSetForOperation(dsring.Read)
	if err != nil {
		return nil, word(err)
	}
	cfg := dsring.DoUntilQuorumConfig{MinimizeRequests: true, HedgingDelay: hedgeAfter, IsTerminalError: isSendersFault}
	answers, err := dsring.DoUntilQuorum(ctx, set, cfg, func(ctx context.Context, d *dsring.InstanceDesc) (T, error) {
		return ask(ctx, member(d))
	}, discard)
	return answers, word(err)
}
