package compactor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// Deletions of tenants are objects: below deletingFolder what is under way,
// below deletedFolder what has ended.
const (
	deletingFolder = ownFolder + "/deleting"
	deletedFolder  = ownFolder + "/deleted"
)

// settle is how long a tenant's deletion goes on after it was asked for:
// ingesters still ship what they had in memory then.
const settle = 24 * time.Hour

// Deletion is how far the deletion of a tenant's blocks is.
type Deletion struct {
	Requested  time.Time  `json:"requested"`
	BlocksLeft *int       `json:"blocks_left,omitempty"` // that have samples of the tenant; nil: not counted yet
	Finished   *time.Time `json:"finished,omitempty"`    // nil: what is shipped for the tenant is still removed
}

// Gone says that no block has samples of the tenant any more.
func (d *Deletion) Gone() bool { return d.BlocksLeft != nil && *d.BlocksLeft == 0 }

// RequestDeletion has the compactors delete all blocks of a tenant, now and of
// a day to come. That it was asked for before changes nothing.
func RequestDeletion(ctx context.Context, b bucket.Bucket, id tenant.ID) error {
	key := deletingFolder.Join(string(id))
	switch _, err := b.Stat(ctx, key); {
	case err == nil:
		return nil
	case !errors.Is(err, bucket.ErrNotFound):
		return fmt.Errorf("request deletion of tenant %s: %w", id, err)
	}
	if err := putJSON(ctx, b, key, &Deletion{Requested: time.Now()}); err != nil {
		return fmt.Errorf("request deletion of tenant %s: %w", id, err)
	}
	return nil
}

// DeletionOf returns how far a tenant's deletion is; nil if nobody has asked
// for it.
func DeletionOf(ctx context.Context, b bucket.Bucket, id tenant.ID) (*Deletion, error) {
	for _, folder := range []bucket.Key{deletingFolder, deletedFolder} {
		d, err := readDeletion(ctx, b, folder.Join(string(id)))
		if !errors.Is(err, bucket.ErrNotFound) {
			return d, err
		}
	}
	return nil, nil //nolint:nilnil // nobody has asked
}

// Registry knows tenants that are to go for good.
type Registry interface {
	// Doomed is the tenants whose data has to go, each with the time since when.
	Doomed() map[tenant.ID]time.Time

	// Removed says that all data of a tenant is gone. It can be repeated.
	Removed(ctx context.Context, id tenant.ID) error
}

// followRegistry begins the deletions that the registry asks for, and tells it
// of those that have ended.
func (c *Compactor) followRegistry(ctx context.Context) error {
	if c.registry == nil {
		return nil
	}
	var errs []error
	for id, since := range c.registry.Doomed() {
		if !c.owns(string(id)) {
			continue
		}
		if err := c.followDoomed(ctx, id, since); err != nil {
			errs = append(errs, fmt.Errorf("delete tenant %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Compactor) followDoomed(ctx context.Context, id tenant.ID, since time.Time) error {
	d, err := DeletionOf(ctx, c.bucket, id)
	switch {
	case err != nil:
		return err
	// An earlier tenant of that name may have been deleted, too.
	case d == nil, d.Finished != nil && d.Requested.Before(since):
		return RequestDeletion(ctx, c.bucket, id)
	case d.Finished != nil:
		return c.registry.Removed(ctx, id)
	default:
		return nil
	}
}

func readDeletion(ctx context.Context, b bucket.Bucket, key bucket.Key) (*Deletion, error) {
	content, _, err := bucket.ReadAll(ctx, b, key)
	if err != nil {
		return nil, err
	}
	d := &Deletion{}
	if err := json.Unmarshal(content, d); err != nil {
		return nil, fmt.Errorf("parse %s: %w", key, err)
	}
	return d, nil
}

func listDeleting(ctx context.Context, b bucket.Bucket) (map[tenant.ID]bool, error) {
	all := map[tenant.ID]bool{}
	for obj, err := range b.List(ctx, deletingFolder.Folder(), false) {
		if err != nil {
			return nil, fmt.Errorf("list tenants to delete: %w", err)
		}
		if id, err := tenant.ParseID(obj.Key.Base()); err == nil {
			all[id] = true
		}
	}
	return all, nil
}

// emptyHome deletes all blocks of a tenant's home at once: who could ask for
// them is not there any more.
func (c *Compactor) emptyHome(ctx context.Context, s *state) error {
	marks, why := map[ulid.ULID]time.Time{}, map[ulid.ULID]string{}
	for _, b := range s.index.Blocks {
		if !s.index.Marked(b.ID) {
			marks[b.ID], why[b.ID] = time.Now(), whyTenant
		}
	}
	if err := c.mark(ctx, s, marks, why); err != nil {
		return err
	}
	return c.deleteMarked(ctx, s, time.Now())
}

// followDeletions counts what is left of the tenants that are being deleted,
// and ends the deletions of which nothing can come any more.
func (c *Compactor) followDeletions(ctx context.Context, r *round) error {
	c.metrics.deletions.Set(float64(len(r.deleting)))
	var pool *bucket.Index
	var errs []error
	for id := range r.deleting {
		if !c.owns(string(id)) {
			continue
		}
		if pool == nil {
			var err error
			if pool, _, err = bucket.ReadIndex(ctx, c.bucket, bucket.PoolHome); err != nil {
				return err
			}
		}
		if err := c.followDeletion(ctx, id, pool, r.now); err != nil {
			errs = append(errs, fmt.Errorf("delete tenant %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Compactor) followDeletion(ctx context.Context, id tenant.ID, pool *bucket.Index, now time.Time) error {
	key := deletingFolder.Join(string(id))
	d, err := readDeletion(ctx, c.bucket, key)
	if err != nil {
		return err
	}
	left, err := c.blocksOf(ctx, id, pool)
	if err != nil {
		return err
	}
	if left > 0 || now.Sub(d.Requested) < settle {
		if d.BlocksLeft != nil && *d.BlocksLeft == left {
			return nil
		}
		d.BlocksLeft = &left
		return putJSON(ctx, c.bucket, key, d)
	}
	if err := c.removeHome(ctx, id); err != nil {
		return err
	}
	d.BlocksLeft, d.Finished = &left, &now
	if err := putJSON(ctx, c.bucket, deletedFolder.Join(string(id)), d); err != nil {
		return err
	}
	c.logger.Info("tenant deleted", "tenant", id, "requested", d.Requested)
	return c.bucket.Delete(ctx, key)
}

// blocksOf counts the blocks that have samples of a tenant, those that are only
// marked included.
func (c *Compactor) blocksOf(ctx context.Context, id tenant.ID, pool *bucket.Index) (int, error) {
	own, _, err := bucket.ReadIndex(ctx, c.bucket, bucket.TenantHome(string(id)))
	if err != nil {
		return 0, err
	}
	n := len(own.Blocks)
	for _, b := range pool.Blocks {
		tenants, _, err := c.pooled.of(ctx, c.bucket, b.ID)
		if err != nil {
			return 0, err
		}
		for there := range tenants {
			if there == id {
				n++
			}
		}
	}
	return n, nil
}

// removeHome removes whatever is left below a tenant's home: what was broken
// off, marks, at last the index.
func (c *Compactor) removeHome(ctx context.Context, id tenant.ID) error {
	home := bucket.TenantHome(string(id))
	var keys []bucket.Key
	for obj, err := range c.bucket.List(ctx, home.Folder(), true) {
		if err != nil {
			return fmt.Errorf("list %s: %w", home, err)
		}
		if obj.Key != bucket.IndexKey(home) {
			keys = append(keys, obj.Key)
		}
	}
	for _, key := range append(keys, bucket.IndexKey(home)) {
		if err := c.bucket.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}
