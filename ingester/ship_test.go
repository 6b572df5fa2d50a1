package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
	"github.com/hearth-metrics/hearth/tenant"
)

// What a pooled block says of its tenants is what their series are, also where
// these came in any order and their samples, too.
func TestTenantsOfPooledBlocks(t *testing.T) {
	n := newNode(t).start()
	rnd := rand.New(rand.NewPCG(1, 2))
	b := base() - 8*60*60_000
	for k := range int64(400) {
		id := tenant.ID(fmt.Sprint("t", rnd.IntN(20)))
		late := rnd.Int64N(3) * 30_000 * rnd.Int64N(20)
		n.push(id, series(fmt.Sprintf("m%d", rnd.IntN(4)), at(b+k*30_000-late, rnd.Float64())))
	}
	_, err := n.Flush(context.Background())
	require.NoError(t, err)
	index, _, err := bucket.ReadIndex(context.Background(), n.bucket, bucket.PoolHome)
	require.NoError(t, err)
	seen := 0
	for _, h := range n.heads() {
		for _, block := range h.db.Blocks() {
			entry := index.Block(block.Meta().ULID)
			tenants, err := bucket.ReadTenants(context.Background(), n.bucket, entry.ID)
			require.NoError(t, err)
			has := buckettest.WeighChunks(t, block, bucket.PoolLabel)
			require.Len(t, tenants, len(has))
			for name, bytes := range tenants {
				want := has[name].Chunks + entry.IndexSize*has[name].Series/int64(entry.Series)
				require.InDelta(t, want, bytes, 8+2, "tenant %s; 8 bytes are before the first chunk", name)
			}
			seen++
		}
	}
	require.Len(t, index.Blocks, seen)
	require.Greater(t, seen, len(n.heads()), "in order, and not")
}
