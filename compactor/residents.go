package compactor

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// readsAtOnce is how many lists of tenants are read at once, as all are after a
// start.
const readsAtOnce = 16

// residents remembers which tenants pooled blocks list, and with how many
// bytes. A block never changes, so each list is read once; names are kept once
// for all blocks.
type residents struct {
	mu     sync.Mutex
	names  []tenant.ID // only ever appended to
	number map[tenant.ID]uint64
	blocks map[ulid.ULID]roster
	totals []int64 // by number, of all blocks; nil where that is not ours to know
}

func newResidents() *residents {
	return &residents{number: map[tenant.ID]uint64{}, blocks: map[ulid.ULID]roster{}}
}

// roster is the tenants of a block, each a number and bytes, as varints: a
// hundred thousand tenants are in hundreds of blocks.
type roster []byte

// all yields the numbers and bytes of a roster.
func (l roster) all() iter.Seq2[uint64, int64] {
	return func(yield func(uint64, int64) bool) {
		for rest := l; len(rest) > 0; {
			number, n := binary.Uvarint(rest)
			bytes, m := binary.Uvarint(rest[n:])
			if !yield(number, int64(bytes)) {
				return
			}
			rest = rest[n+m:]
		}
	}
}

// of returns the tenants of a pooled block, and whether it has a list: a block
// without one is what a broken upload has left.
func (r *residents) of(ctx context.Context, b bucket.Bucket, id ulid.ULID) (tenants iter.Seq[tenant.ID], listed bool, err error) {
	l, err := r.roster(ctx, b, id)
	if err != nil {
		return nil, false, err
	}
	r.mu.Lock()
	names := r.names
	r.mu.Unlock()
	return func(yield func(tenant.ID) bool) {
		for number := range l.all() {
			if !yield(names[number]) {
				return
			}
		}
	}, len(l) > 0, nil
}

func (r *residents) roster(ctx context.Context, b bucket.Bucket, id ulid.ULID) (roster, error) {
	r.mu.Lock()
	l, ok := r.blocks[id]
	r.mu.Unlock()
	if ok {
		return l, nil
	}
	sizes, err := bucket.ReadTenants(ctx, b, id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blocks[id] = r.encode(sizes)
	return r.blocks[id], nil
}

func (r *residents) encode(sizes map[string]int64) (l roster) {
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		id := tenant.ID(name)
		n, ok := r.number[id]
		if !ok {
			n = uint64(len(r.names))
			r.names, r.number[id] = append(r.names, id), n
		}
		l = binary.AppendUvarint(binary.AppendUvarint(l, n), uint64(sizes[name]))
	}
	return slices.Clone(l) // as small as it can be
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

// count adds up what each tenant has in the pool's blocks. Only all lists
// together say it: while one cannot be read, what was known stays.
func (r *residents) count(ctx context.Context, b bucket.Bucket, x *bucket.Index) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readsAtOnce)
	live := standing(x)
	rosters := make([]roster, len(live))
	for i := range live {
		g.Go(func() (err error) {
			rosters[i], err = r.roster(gctx, b, live[i].ID)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("count what tenants have in the pool: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals = make([]int64, len(r.names))
	for _, l := range rosters {
		for number, bytes := range l.all() {
			r.totals[number] += bytes
		}
	}
	return nil
}

// countNothing forgets what was counted.
func (r *residents) countNothing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals = nil
}

// eachTotal yields what was counted.
func (r *residents) eachTotal(yield func(id tenant.ID, bytes int64)) {
	r.mu.Lock()
	names, totals := r.names, r.totals // neither is changed, only replaced
	r.mu.Unlock()
	for number, bytes := range totals {
		if bytes > 0 {
			yield(names[number], bytes)
		}
	}
}

// mustPurge says whether a pooled block has to be written again, because it
// has a tenant in it whose samples are not kept.
func (c *Compactor) mustPurge(ctx context.Context, r *round, b *bucket.IndexBlock) bool {
	tenants, _, err := c.pooled.of(ctx, c.bucket, b.ID)
	if err != nil {
		c.logger.Warn("tenants of a pooled block cannot be read, will retry", "block", b.ID, "err", err)
		return false
	}
	for id := range tenants {
		if !c.keeps(r, id, b.MaxTime) {
			return true
		}
	}
	return false
}

// anyKept says whether a job on pooled blocks has anything to keep.
func (c *Compactor) anyKept(ctx context.Context, j *job, keep func(tenant.ID) bool) (bool, error) {
	for _, b := range j.blocks {
		tenants, listed, err := c.pooled.of(ctx, c.bucket, b.ID)
		if err != nil {
			return false, err
		}
		if !listed {
			return true, nil // not known
		}
		for id := range tenants {
			if keep(id) {
				return true, nil
			}
		}
	}
	return false, nil
}
