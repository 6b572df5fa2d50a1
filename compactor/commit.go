package compactor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
)

// commit puts what a job has made in the place of its blocks, in one write of
// the home's index: readers see the ones or the others. When a block is not
// there any more, or is to go already, somebody else was faster, and what was
// made is garbage.
func (c *Compactor) commit(ctx context.Context, j *job, made []bucket.IndexBlock) error {
	now := time.Now()
	err := bucket.UpdateIndex(ctx, c.bucket, j.home, func(x *bucket.Index) error {
		// A write whose answer was lost is tried again, and finds itself.
		if len(made) > 0 && !slices.ContainsFunc(made, func(b bucket.IndexBlock) bool { return x.Block(b.ID) == nil }) {
			for _, b := range j.blocks {
				x.MarkDeletion(b.ID, now)
			}
			return nil
		}
		for _, b := range j.blocks {
			if x.Block(b.ID) == nil || x.Marked(b.ID) {
				return errLost
			}
		}
		for _, b := range made {
			x.AddBlock(b)
		}
		for _, b := range j.blocks {
			x.MarkDeletion(b.ID, now)
		}
		return nil
	})
	if errors.Is(err, errLost) {
		return errors.Join(errLost, bucket.DeleteUnlisted(ctx, c.bucket, j.home, ids(made)))
	}
	if err != nil {
		// Not known whether it was written: what was made stays. If no index
		// has it, it is removed as what a crash has left.
		return fmt.Errorf("commit: %w", err)
	}
	c.metrics.compacted.Add(float64(len(j.blocks)))
	c.metrics.written.Add(float64(len(made)))
	c.logger.Info("blocks compacted", "job", j.key(), "blocks", len(j.blocks), "bytes", j.size(), "made", len(made), "dur", time.Since(now))
	c.tellOthers(ctx, j.home, ids(j.blocks), "compacted", now)
	return nil
}

// tellOthers writes deletion marks for those who do not read our index, and who
// have nothing to do with the pool. The index is what counts, so a failure is no
// more than a line in the log.
func (c *Compactor) tellOthers(ctx context.Context, home bucket.Key, blocks []ulid.ULID, why string, at time.Time) {
	if home == bucket.PoolHome {
		return
	}
	for _, id := range blocks {
		if err := bucket.WriteDeletionMark(ctx, c.bucket, home, id, why, at); err != nil && ctx.Err() == nil {
			c.logger.Warn("deletion mark for other systems could not be written", "home", home, "block", id, "err", err)
		}
	}
}

func ids(blocks []bucket.IndexBlock) []ulid.ULID {
	out := make([]ulid.ULID, len(blocks))
	for i, b := range blocks {
		out[i] = b.ID
	}
	return out
}

func putJSON(ctx context.Context, b bucket.Bucket, key bucket.Key, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	_, err = b.Put(ctx, key, bytes.NewReader(content), int64(len(content)), bucket.Condition{})
	return err
}
