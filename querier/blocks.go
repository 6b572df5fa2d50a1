package querier

import (
	"context"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/storage"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// need is what a query has to read of the bucket.
type need struct {
	wire.Blocks
	indexBytes int64 // of all blocks in the tenant's home
}

// blocks lists the blocks that may have samples of a tenant between mint and
// maxt, as listed after a time (see index), without those in skip.
func (c *Catalogue) blocks(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID, after time.Time) (*need, error) {
	n := &need{}
	var own, pool *bucket.Index
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { own, err = c.own(gctx, id, after); return err })
	g.Go(func() (err error) { pool, err = c.index(gctx, bucket.PoolHome, after); return err })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range own.Blocks {
		n.indexBytes += own.Blocks[i].IndexSize
	}
	n.Own = wanted(own, mint, maxt, skip, func(*bucket.IndexBlock) bool { return true })
	n.Pooled = wanted(pool, mint, maxt, skip, func(b *bucket.IndexBlock) bool { return hasTenant(b, id) })
	return n, nil
}

// wanted picks blocks of a list. One that is to be deleted has been replaced:
// what a compaction has made is listed in the same moment in which its sources
// are marked.
func wanted(x *bucket.Index, mint, maxt int64, skip []ulid.ULID, also func(*bucket.IndexBlock) bool) (out []ulid.ULID) {
	leave := map[ulid.ULID]struct{}{}
	for _, m := range x.BlockDeletionMarks {
		leave[m.ID] = struct{}{}
	}
	for _, id := range skip {
		leave[id] = struct{}{}
	}
	for i := range x.Blocks {
		b := &x.Blocks[i]
		if _, left := leave[b.ID]; !left && b.Overlaps(mint, maxt) && also(b) {
			out = append(out, b.ID)
		}
	}
	return out
}

// hasTenant says whether a pooled block may have series of a tenant: one that
// was split has those of its part.
func hasTenant(b *bucket.IndexBlock, id tenant.ID) bool {
	var part, of int
	if n, err := fmt.Sscanf(b.CompactorShardID, "%d_of_%d", &part, &of); n != 2 || err != nil || part < 1 || part > of {
		return true
	}
	return bucket.PoolShard(string(id), of) == part-1
}

// Gateway reads blocks. An error of the kind NotFound, of opening, says that
// the bucket does not have one of them. The rules are those of Recent.
type Gateway interface {
	Querier(ctx context.Context, id tenant.ID, mint, maxt int64, blocks wire.Blocks) (storage.Querier, error)
	ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64, blocks wire.Blocks) (storage.ChunkQuerier, error)
}

// Local is a Stored whose blocks are read by a gateway in this process.
type Local struct {
	list    *Catalogue
	gateway Gateway
}

// NewLocal makes a Stored of the listed blocks.
func NewLocal(list *Catalogue, gateway Gateway) *Local { return &Local{list, gateway} }

// Querier implements Stored.
func (l *Local) Querier(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.Querier, error) {
	return fromBlocks(ctx, l.list, id, mint, maxt, skip, func(n *need) (storage.Querier, error) {
		if n.Len() == 0 {
			return storage.NoopQuerier(), nil
		}
		return l.gateway.Querier(ctx, id, mint, maxt, n.Blocks)
	})
}

// ChunkQuerier implements Stored.
func (l *Local) ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.ChunkQuerier, error) {
	return fromBlocks(ctx, l.list, id, mint, maxt, skip, func(n *need) (storage.ChunkQuerier, error) {
		if n.Len() == 0 {
			return storage.NoopChunkedQuerier(), nil
		}
		return l.gateway.ChunkQuerier(ctx, id, mint, maxt, n.Blocks)
	})
}

// fromBlocks reads the blocks that a query needs. One that is listed and not in
// the bucket was deleted since the list was read, after a compaction for
// example: then what replaces it is in a newer list.
func fromBlocks[T any](ctx context.Context, list *Catalogue, id tenant.ID, mint, maxt int64, skip []ulid.ULID, read func(*need) (T, error)) (T, error) {
	var none T
	n, err := list.blocks(ctx, id, mint, maxt, skip, time.Time{})
	if err != nil {
		return none, err
	}
	t, err := read(n)
	if !isGone(err) {
		return t, err
	}
	newer, err := list.blocks(ctx, id, mint, maxt, skip, time.Now())
	if err != nil {
		return none, err
	}
	if t, err = read(newer); isGone(err) {
		list.logger.Warn("listed block is not in the bucket, query fails", "tenant", id, "err", err)
		return none, errBlock()
	}
	return t, err
}

func isGone(err error) bool { return err != nil && wire.KindOf(err) == wire.NotFound }

// storeRetryAfter is what a client is told when stored data cannot be read now.
const storeRetryAfter = 5 * time.Second

// errStoreStopped says that the list of blocks is not there while we stop.
func errStoreStopped() error {
	return storeUnavailable("err-store-not-running", "stored data cannot be read while the server starts or stops, try again")
}

// errCatalogue says that the list of a tenant's blocks is unknown or too old.
func errCatalogue() error {
	return storeUnavailable("err-store-index", "the list of stored blocks cannot be read now, try again")
}

// errBlock says that a block that should be there was not searched by anyone.
func errBlock() error {
	return storeUnavailable("err-store-block-unavailable", "some of the stored data that this query needs cannot be read now, try again")
}

func storeUnavailable(id, msg string) error {
	e := wire.Errorf(wire.Unavailable, id, "%s", msg)
	e.RetryAfter = storeRetryAfter
	return e
}
