package ingester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/bucket"
)

type ulidT = ulid.ULID

// shipRetry is how long the ship loop waits after a failure, and at most
// between two rounds.
const shipRetry = 30 * time.Second

// blockTimeout bounds the upload of one block, whatever the bucket does.
const blockTimeout = 15 * time.Minute

// shipLoop uploads blocks after each cut, and tries again what failed.
func (i *Ingester) shipLoop(ctx context.Context) {
	for {
		i.shipAll(ctx)
		select {
		case <-ctx.Done():
			return
		case <-i.shipNow:
		case <-time.After(shipRetry):
		}
	}
}

func (i *Ingester) wakeShipping() {
	select {
	case i.shipNow <- struct{}{}:
	default:
	}
}

func (i *Ingester) shipAll(ctx context.Context) {
	unshipped := 0
	for _, h := range i.heads() {
		if ctx.Err() != nil {
			return
		}
		_, err := i.shipHead(ctx, h)
		unshipped += len(h.shipped.missing(h.blocks()))
		if err != nil && ctx.Err() == nil {
			i.logger.Warn("block upload failed, will retry", "head", h.name, "err", err)
		}
	}
	i.metrics.unshipped.Set(float64(unshipped))
}

// shipHead uploads the blocks of a head that the bucket does not have, oldest
// first.
func (i *Ingester) shipHead(ctx context.Context, h *head) (shipped []ulid.ULID, err error) {
	h.shipping.Lock()
	defer h.shipping.Unlock()
	for _, b := range h.shipped.missing(h.blocks()) {
		id := b.Meta().ULID
		if err := i.shipBlock(ctx, h, b); err != nil {
			i.metrics.shipFailures.Inc()
			return shipped, fmt.Errorf("ship block %s: %w", id, err)
		}
		i.metrics.shipped.Inc()
		shipped = append(shipped, id)
	}
	return shipped, nil
}

// compactLater is when a compactor is to look at a home for what was shipped:
// by then the other replicas have shipped theirs, and it notes itself when it
// has to come again.
func (i *Ingester) compactLater() time.Time {
	return time.Now().Add(time.Duration(i.cfg.BlockRange) / 2)
}

func (i *Ingester) shipBlock(ctx context.Context, h *head, b *tsdb.Block) error {
	ctx, cancel := context.WithTimeout(ctx, blockTimeout)
	defer cancel()
	if h.pooled() {
		if err := listTenants(ctx, b); err != nil {
			return err
		}
	}
	if err := bucket.UploadBlock(ctx, i.bucket, h.home, b.Dir()); err != nil {
		return err
	}
	if !h.pooled() { // the pool is always looked at
		if err := bucket.NoteDue(ctx, i.bucket, string(h.home), i.compactLater(), b.Meta().ULID.String()); err != nil {
			return err
		}
	}
	return h.shipped.add(b.Meta().ULID, time.Now())
}

// listTenants writes the tenants of a pooled block beside its meta.json.
func listTenants(ctx context.Context, b *tsdb.Block) error {
	sizes, err := bucket.TenantSizes(ctx, b)
	if err != nil {
		return fmt.Errorf("list tenants: %w", err)
	}
	return writeJSON(filepath.Join(b.Dir(), bucket.TenantsFile), sizes)
}

// shippedBlocks remembers which of a head's blocks the bucket has, and since
// when. It is on disk, so that a restart neither uploads again nor keeps for
// ever. When it is lost, all that is on disk is shipped again: what was merged
// into other blocks meanwhile comes twice then, and is merged once more.
type shippedBlocks struct {
	path   string
	broken error // why the file counts as lost, if it does

	mu sync.Mutex
	at map[ulid.ULID]time.Time
}

func readShipped(dir string) (*shippedBlocks, error) {
	s := &shippedBlocks{path: filepath.Join(dir, "shipped.json"), at: map[ulid.ULID]time.Time{}}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &s.at); err != nil {
		s.at, s.broken = map[ulid.ULID]time.Time{}, err
	}
	return s, nil
}

func (s *shippedBlocks) add(id ulid.ULID, at time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[id] = at
	return writeJSON(s.path, s.at)
}

// missing returns the blocks that are not known to be in the bucket, in order.
func (s *shippedBlocks) missing(blocks []*tsdb.Block) []*tsdb.Block {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*tsdb.Block
	for _, b := range blocks {
		if _, ok := s.at[b.Meta().ULID]; !ok {
			out = append(out, b)
		}
	}
	return out
}

// spent returns the blocks that need not be on disk any more: the bucket has had
// them for long enough. The newest stays while the head has samples: the TSDB
// goes by its end at a start, and does not take in again what the log still has
// from before, to be cut and shipped once more.
func (i *Ingester) spent(h *head, blocks []*tsdb.Block) map[ulid.ULID]struct{} {
	out := h.shipped.olderThan(blocks, time.Now().Add(-time.Duration(i.cfg.KeepShipped)))
	if h.db != nil && h.db.Head().NumSeries() == 0 {
		return out
	}
	var newest *tsdb.BlockMeta
	for _, b := range blocks {
		// Blocks of samples out of order say nothing about the log of the others.
		if m := b.Meta(); !m.Compaction.FromOutOfOrder() && (newest == nil || m.MaxTime > newest.MaxTime) {
			newest = &m
		}
	}
	if newest != nil {
		delete(out, newest.ULID)
	}
	return out
}

// olderThan returns the blocks that were shipped before a time: those need not
// be kept here. Entries of blocks that are gone are dropped on the way.
func (s *shippedBlocks) olderThan(blocks []*tsdb.Block, before time.Time) map[ulid.ULID]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[ulid.ULID]struct{}{}
	here := map[ulid.ULID]bool{}
	for _, b := range blocks {
		id := b.Meta().ULID
		here[id] = true
		if at, ok := s.at[id]; ok && at.Before(before) {
			out[id] = struct{}{}
		}
	}
	for id := range s.at {
		if !here[id] {
			delete(s.at, id)
		}
	}
	return out
}
