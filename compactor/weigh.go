package compactor

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// EachTenant yields how many bytes tenants have in a home, their own or the
// pool: of those homes that we own, so that one compactor tells of each. Blocks
// that are to go, which no reader sees, do not count.
func (c *Compactor) EachTenant(yield func(id tenant.ID, home bucket.Key, bytes int64)) {
	c.mu.Lock()
	sizes := make(map[tenant.ID]int64, len(c.sizes))
	for id, bytes := range c.sizes {
		if bytes > 0 {
			sizes[id] = bytes
		}
	}
	c.mu.Unlock()
	for id, bytes := range sizes {
		if c.owns(string(id)) {
			yield(id, bucket.TenantHome(string(id)), bytes)
		}
	}
	if c.owns(string(bucket.PoolHome)) {
		c.pooled.eachTotal(func(id tenant.ID, bytes int64) { yield(id, bucket.PoolHome, bytes) })
	}
}

// weigh notes what is in a tenant's home.
func (c *Compactor) weigh(id tenant.ID, blocks []bucket.IndexBlock) {
	var bytes int64
	for i := range blocks {
		bytes += blocks[i].Size
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sizes[id] = bytes
}

// weighPool notes what each tenant has in the pool, if it is ours to tell.
func (c *Compactor) weighPool(ctx context.Context, x *bucket.Index) {
	if !c.owns(string(bucket.PoolHome)) {
		c.pooled.countNothing() // it would be old when it is ours again
		return
	}
	if err := c.pooled.count(ctx, c.bucket, x); err != nil && ctx.Err() == nil {
		c.logger.Warn("what tenants have in the pool is not known anew, will retry", "err", err)
	}
}

// weighHomes looks at the homes of ours that nobody has visited since this
// process is their owner: nothing may be due in them for ever.
func (c *Compactor) weighHomes(ctx context.Context, now time.Time) error {
	if now.Sub(c.knownAt) >= findHomesEvery {
		known, err := c.knownHomes(ctx)
		if err != nil {
			return err
		}
		c.known, c.knownAt = known, now
	}
	var g errgroup.Group
	g.SetLimit(homesAtOnce)
	for _, id := range c.unweighed() {
		g.Go(func() error {
			x, _, err := bucket.ReadIndex(ctx, c.bucket, bucket.TenantHome(string(id)))
			if err != nil {
				return fmt.Errorf("weigh the home of %s: %w", id, err)
			}
			c.weigh(id, standing(x))
			return nil
		})
	}
	return g.Wait()
}

// unweighed forgets the homes that are not ours any more, and lists those that
// are and are not known.
func (c *Compactor) unweighed() (ids []tenant.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.sizes {
		if !c.owns(string(id)) {
			delete(c.sizes, id)
		}
	}
	for id := range c.known {
		if _, ok := c.sizes[id]; !ok && c.owns(string(id)) {
			ids = append(ids, id)
		}
	}
	return ids
}
