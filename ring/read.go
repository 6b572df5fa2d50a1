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

	// A member that restarts is reached again before long.
	readPatience = time.Second
	readAgain    = 200 * time.Millisecond

	// lookback is how long a member that has left a tenant's shard is still
	// asked: until what it held is in the bucket and gateways know of it.
	lookback = 13 * time.Hour
)

// Read asks as many members as are needed to see everything that a quorum has
// of a tenant: one less than all replicas where three hold each series, zone by
// zone where there are zones, and another when one fails or is slow. Where too
// few can answer it soon asks again, for a while. It returns their answers, or
// an error. discard is called with answers that are not returned.
func Read[T any](ctx context.Context, r *Ring, id tenant.ID, ask func(ctx context.Context, from Member) (T, error), discard func(T)) ([]T, error) {
	for began := time.Now(); ; {
		answers, err := readOnce(ctx, r, id, ask, discard)
		if err == nil || isSendersFault(err) || time.Since(began) > readPatience {
			return answers, word(err)
		}
		select {
		case <-time.After(readAgain):
		case <-ctx.Done():
			return nil, word(err)
		}
	}
}

func readOnce[T any](ctx context.Context, r *Ring, id tenant.ID, ask func(ctx context.Context, from Member) (T, error), discard func(T)) ([]T, error) {
	size := 0
	if r.shards != nil {
		size = r.shards.Reads(id)
	}
	set, err := r.ring.ShuffleShardWithLookback(string(id), size, lookback, time.Now()).GetReplicationSetForOperation(dsring.Read)
	if err != nil {
		return nil, err
	}
	cfg := dsring.DoUntilQuorumConfig{MinimizeRequests: true, HedgingDelay: hedgeAfter, IsTerminalError: isSendersFault}
	return dsring.DoUntilQuorum(ctx, set, cfg, func(ctx context.Context, d *dsring.InstanceDesc) (T, error) {
		return ask(ctx, member(d))
	}, discard)
}
