package compactor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// residents remembers which tenants pooled blocks list. A block never changes,
// so each list is read once; names are kept once for all blocks.
type residents struct {
	mu     sync.Mutex
	names  []tenant.ID
	number map[tenant.ID]uint32
	blocks map[ulid.ULID][]uint32
}

func newResidents() *residents {
	return &residents{number: map[tenant.ID]uint32{}, blocks: map[ulid.ULID][]uint32{}}
}

// of returns the tenants of a pooled block. A block without a list, which only
// a broken upload can leave, has none.
func (r *residents) of(ctx context.Context, b bucket.Bucket, id ulid.ULID) ([]tenant.ID, error) {
	r.mu.Lock()
	numbers, ok := r.blocks[id]
	r.mu.Unlock()
	if !ok {
		names, err := readTenants(ctx, b, id)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		numbers = r.intern(names)
		r.blocks[id] = numbers
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]tenant.ID, len(numbers))
	for i, n := range numbers {
		out[i] = r.names[n]
	}
	return out, nil
}

func (r *residents) intern(names []tenant.ID) []uint32 {
	numbers := make([]uint32, len(names))
	for i, name := range names {
		n, ok := r.number[name]
		if !ok {
			n = uint32(len(r.names))
			r.names, r.number[name] = append(r.names, name), n
		}
		numbers[i] = n
	}
	return numbers
}

// forget drops the lists of blocks that are not there any more.
func (r *residents) forget(x *bucket.Index) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.blocks {
		if x.Block(id) == nil {
			delete(r.blocks, id)
		}
	}
}

func readTenants(ctx context.Context, b bucket.Bucket, id ulid.ULID) ([]tenant.ID, error) {
	key := bucket.BlockKey(bucket.PoolHome, id, bucket.TenantsFile)
	content, _, err := bucket.ReadAll(ctx, b, key)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read tenants: %w", err)
	}
	var names []tenant.ID
	if err := json.Unmarshal(content, &names); err != nil {
		return nil, fmt.Errorf("parse %s: %w", key, err)
	}
	return names, nil
}

// mustPurge says whether a pooled block has to be written again, because it
// has a tenant in it whose samples are not kept.
func (c *Compactor) mustPurge(ctx context.Context, r *round, b *bucket.IndexBlock) bool {
	names, err := c.pooled.of(ctx, c.bucket, b.ID)
	if err != nil {
		c.logger.Warn("tenants of a pooled block cannot be read, will retry", "block", b.ID, "err", err)
		return false
	}
	for _, id := range names {
		if !c.keeps(r, id, b.MaxTime) {
			return true
		}
	}
	return false
}

// anyKept says whether a job on pooled blocks has anything to keep.
func (c *Compactor) anyKept(ctx context.Context, j *job, keep func(tenant.ID) bool) (bool, error) {
	for _, b := range j.blocks {
		names, err := c.pooled.of(ctx, c.bucket, b.ID)
		if err != nil {
			return false, err
		}
		if names == nil {
			return true, nil // not known
		}
		for _, id := range names {
			if keep(id) {
				return true, nil
			}
		}
	}
	return false, nil
}
