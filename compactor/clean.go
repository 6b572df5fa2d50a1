package compactor

import (
	"context"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
)

const (
	// cleanEvery is how often a home that is visited is searched for leftovers.
	cleanEvery = 24 * time.Hour

	// leftoverAfter is how long nothing may be written to the folder of a block
	// before it counts as given up. Uploads are tried again within minutes.
	leftoverAfter = 24 * time.Hour

	// adoptAfter is how long after its meta.json a block has to be listed by
	// who uploads it.
	adoptAfter = time.Hour
)

// clean looks at the folders of a home that its index does not have. What was
// broken off is removed; a block that is whole, and that no compaction of ours
// made, was put there by another system and is listed from now on.
func (c *Compactor) clean(ctx context.Context, s *state, now time.Time) error {
	if !c.dirty(s.home, now) {
		return nil
	}
	found, err := bucket.FindUnlisted(ctx, c.bucket, s.home, s.index)
	if err != nil {
		return err
	}
	var leftovers []ulid.ULID
	var adopted []bucket.IndexBlock
	done := cleaning{at: now}
	for _, u := range found {
		garbage := u.Meta == nil || u.Marked || u.Meta.Thanos.Source == source
		patience := adoptAfter
		if garbage {
			patience = leftoverAfter
		}
		switch ripe := u.Changed.Add(patience); {
		case !now.After(ripe):
			if done.again.IsZero() || ripe.Before(done.again) {
				done.again = ripe
			}
		case garbage:
			leftovers = append(leftovers, u.ID)
		default:
			adopted = append(adopted, u.Entry)
		}
	}
	if err := c.adopt(ctx, s, adopted); err != nil {
		return err
	}
	if err := c.deleteLeftovers(ctx, s, leftovers); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cleaned[s.home] = done
	return nil
}

// cleaning is a search of a home for leftovers.
type cleaning struct {
	at    time.Time
	again time.Time // what was too young will not be any more; zero: there was nothing
}

// dirty says whether it is time to search a home for leftovers.
func (c *Compactor) dirty(home bucket.Key, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.cleaned[home]
	return now.Sub(last.at) >= cleanEvery || (!last.again.IsZero() && now.After(last.again))
}

// cleanAgain is when to look at what was too young to be a leftover; zero:
// there was nothing.
func (c *Compactor) cleanAgain(home bucket.Key) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cleaned[home].again
}

func (c *Compactor) adopt(ctx context.Context, s *state, blocks []bucket.IndexBlock) error {
	if len(blocks) == 0 {
		return nil
	}
	c.logger.Info("blocks found that the index lacks; listed", "home", s.home, "blocks", len(blocks))
	return c.change(ctx, s, func(x *bucket.Index) {
		for _, b := range blocks {
			if x.Block(b.ID) == nil {
				x.AddBlock(b)
			}
		}
	})
}

// deleteLeftovers removes folders, after a last look at the index: an upload
// that was slow may have listed its block since.
func (c *Compactor) deleteLeftovers(ctx context.Context, s *state, leftovers []ulid.ULID) error {
	if len(leftovers) == 0 {
		return nil
	}
	x, _, err := bucket.ReadIndex(ctx, c.bucket, s.home)
	if err != nil {
		return err
	}
	var gone []ulid.ULID
	for _, id := range leftovers {
		if x.Block(id) == nil {
			gone = append(gone, id)
		}
	}
	if err := bucket.DeleteUnlisted(ctx, c.bucket, s.home, gone); err != nil {
		return fmt.Errorf("delete leftovers: %w", err)
	}
	c.metrics.deleted.WithLabelValues("unlisted").Add(float64(len(gone)))
	c.logger.Info("leftovers of uploads, deletions and compactions deleted", "home", s.home, "blocks", len(gone))
	return nil
}
