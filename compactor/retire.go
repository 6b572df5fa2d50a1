package compactor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
)

// The reasons for which a block is marked.
const (
	whyRetention = "retention"
	whyForeign   = "foreign"
	whyTenant    = "tenant"
)

// chores does what is not compaction in a home: marks what is too old, takes
// up marks that other systems made, deletes what was marked long enough ago,
// and once a day removes leftovers. s is current afterwards.
func (c *Compactor) chores(ctx context.Context, r *round, s *state, tooOld func(*bucket.IndexBlock) bool) error {
	marks := map[ulid.ULID]time.Time{}
	why := map[ulid.ULID]string{}
	for i := range s.index.Blocks {
		b := &s.index.Blocks[i]
		if s.index.Marked(b.ID) {
			continue
		}
		if key, ok := s.markers.Deletion[b.ID]; ok {
			at, err := bucket.ReadDeletionMark(ctx, c.bucket, b.ID, key)
			if errors.Is(err, bucket.ErrNotFound) { // taken back
				continue
			}
			if err != nil {
				return err
			}
			marks[b.ID], why[b.ID] = at, whyForeign
		} else if tooOld(b) {
			marks[b.ID], why[b.ID] = r.now, whyRetention
		}
	}
	if err := c.mark(ctx, s, marks, why); err != nil {
		return err
	}
	if err := c.deleteMarked(ctx, s, r.now.Add(-time.Duration(c.cfg.DeletionDelay))); err != nil {
		return err
	}
	return c.clean(ctx, s, r.now)
}

// mark puts deletion marks into the index of a home.
func (c *Compactor) mark(ctx context.Context, s *state, marks map[ulid.ULID]time.Time, why map[ulid.ULID]string) error {
	if len(marks) == 0 {
		return nil
	}
	err := c.change(ctx, s, func(x *bucket.Index) {
		for id, at := range marks {
			x.MarkDeletion(id, at)
		}
	})
	if err != nil {
		return err
	}
	for id, at := range marks {
		c.metrics.marked.WithLabelValues(why[id]).Inc()
		if why[id] != whyForeign {
			c.tellOthers(ctx, s.home, []ulid.ULID{id}, why[id], at)
		}
	}
	c.logger.Info("blocks marked for deletion", "home", s.home, "blocks", len(marks))
	return nil
}

// change updates a home's index, in the bucket and in s.
func (c *Compactor) change(ctx context.Context, s *state, f func(*bucket.Index)) error {
	return bucket.UpdateIndex(ctx, c.bucket, s.home, func(x *bucket.Index) error {
		f(x)
		s.index = x
		return nil
	})
}

// deleteMarked removes the blocks that were marked before a time: by then no
// reader has a list that lacks the mark.
func (c *Compactor) deleteMarked(ctx context.Context, s *state, before time.Time) error {
	var due []ulid.ULID
	for _, m := range s.index.BlockDeletionMarks {
		if !time.Unix(m.DeletionTime, 0).After(before) {
			due = append(due, m.ID)
		}
	}
	if len(due) == 0 {
		return nil
	}
	if err := bucket.DeleteMarked(ctx, c.bucket, s.home, due); err != nil {
		return fmt.Errorf("delete marked blocks: %w", err)
	}
	c.metrics.deleted.WithLabelValues("marked").Add(float64(len(due)))
	c.logger.Info("marked blocks deleted", "home", s.home, "blocks", len(due))
	for _, id := range due {
		s.index.RemoveBlock(id)
	}
	return nil
}
