package ingester

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/tsdb"
)

// cutEvery is how often heads are looked at. What is found to do depends on
// the data's time and the heads' idleness, not on it.
const cutEvery = time.Minute

// cutLoop keeps the heads short: full ones are cut into blocks on block
// borders, idle ones whole; tenants that have grown get a head of their own,
// and what is empty is dropped. It also opens heads anew that need it, counts
// series for limits that are new, and does the flushes nobody waits for.
func (i *Ingester) cutLoop(ctx context.Context) {
	tick := time.NewTicker(cutEvery)
	defer tick.Stop()
	heal := time.NewTicker(healEvery)
	defer heal.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-heal.C:
			i.healAll(ctx, now)
			i.countAllAnew(ctx)
		case <-tick.C:
			i.upkeep(ctx, time.Now())
		case heads := <-i.flushNow:
			if _, err := i.flush(ctx, heads); err != nil {
				i.logger.Error("flush failed", "err", err)
			}
		}
	}
}

// upkeep is one round of cutLoop.
func (i *Ingester) upkeep(ctx context.Context, now time.Time) {
	idleSince := now.Add(-time.Duration(i.cfg.IdleCut))
	for _, h := range i.heads() {
		if ctx.Err() != nil {
			return
		}
		if err := i.cut(ctx, h, idleSince); err != nil {
			i.logger.Error("blocks could not be cut, will retry", "head", h.name, "err", err)
		}
	}
	i.wakeShipping()
	for _, m := range i.members() {
		m.meta.expire(now.Add(-metadataTTL))
		if err := i.rehouse(m, idleSince); err != nil {
			i.logger.Error("tenant could not be moved, will retry", "tenant", m.id, "err", err)
		}
	}
	i.forgetIdle(idleSince)
}

// cut cuts what is due: everything if nothing was appended since idleSince,
// else the ranges that lie far enough behind the newest sample.
func (i *Ingester) cut(ctx context.Context, h *head, idleSince time.Time) error {
	h.cutting.Lock()
	defer h.cutting.Unlock()
	if h.mended.shut {
		return nil
	}
	if h.appended.Load() < idleSince.UnixMilli() {
		if h.db.Head().NumSeries() == 0 {
			return i.dropSpent(ctx, h)
		}
		return i.cutAll(ctx, h)
	}
	return i.cutDue(ctx, h)
}

// cutDue cuts one range after the other, as long as one is due. The caller
// holds h.cutting.
func (i *Ingester) cutDue(ctx context.Context, h *head) error {
	if _, _, due := i.due(h); !due {
		return nil
	}
	for {
		// Appends that were begun before may go where those that begin now may
		// not, behind the border.
		var from, to int64
		var due bool
		err := i.exclusive(h, func() error {
			if h.closed {
				return errStopping()
			}
			from, to, due = i.due(h)
			return nil
		})
		if err != nil {
			return err
		}
		if !due {
			h.seriesAfterCut = h.db.Head().NumSeries()
			return i.tallyCut(h.db.CompactOOOHead(ctx))
		}
		if err := h.db.CompactHead(tsdb.NewRangeHeadWithIsolationDisabled(h.db.Head(), from, to-1)); err != nil {
			return i.tallyCut(fmt.Errorf("cut head %s: %w", h.name, err))
		}
	}
}

// due is the range that is to be cut next, from its first sample to a block
// border (ms, exclusive) that lies far enough behind the newest one.
func (i *Ingester) due(h *head) (from, to int64, due bool) {
	hd, width := h.db.Head(), h.blockRange(i)
	from = hd.MinTime()
	if hd.MaxTime()-from <= width/2*3 { // upstream's own measure of due
		return 0, 0, false
	}
	longest := i.longest(h)
	end := borderAfter(from, longest)
	if last := borderAfter(hd.MaxTime()-width/2, width) - width; last < end {
		if longest > width && i.mayWait(h) {
			return 0, 0, false
		}
		end = last
	}
	return from, end, true
}

// cutAll cuts all that a head holds, one range after the other, while appends
// go on. The caller holds h.cutting.
func (i *Ingester) cutAll(ctx context.Context, h *head) error {
	for {
		from, maxT, err := i.fence(h)
		if err != nil || from == math.MaxInt64 {
			return err
		}
		to := min(borderAfter(from, i.longest(h))-1, maxT)
		if err := h.db.CompactHead(tsdb.NewRangeHeadWithIsolationDisabled(h.db.Head(), from, to)); err != nil {
			return i.tallyCut(fmt.Errorf("cut head %s: %w", h.name, err))
		}
		if to == maxT {
			return i.tallyCut(h.db.CompactOOOHead(ctx))
		}
	}
}

// dropSpent drops the blocks that an idle head need not keep; one that goes on
// does so when it is cut. The caller holds h.cutting.
func (i *Ingester) dropSpent(ctx context.Context, h *head) error {
	if len(i.spent(h, h.db.Blocks())) == 0 {
		return nil
	}
	return h.db.CompactOOOHead(ctx) // there are no samples, but it looks through the blocks
}

// fence moves the border from which on a head takes samples in order behind its
// newest sample, and returns the times (ms) of the oldest and the newest. What
// comes in before the border from now on is kept apart as out of order, so
// nothing can slip behind a cut of these times. The TSDB moves the border itself
// after a cut, to the cut's end, so each range needs a fence of its own; what
// came in order between two fences is behind the first cut, and goes with the
// next.
func (i *Ingester) fence(h *head) (minT, maxT int64, err error) {
	hd := h.db.Head()
	err = i.exclusive(h, func() error {
		if h.closed {
			return errStopping()
		}
		minT, maxT = hd.MinTime(), hd.MaxTime()
		if minT != math.MaxInt64 {
			hd.SetMinValidTime(maxT + 1)
		}
		return nil
	})
	return minT, maxT, err
}

func (i *Ingester) tallyCut(err error) error {
	if err != nil {
		i.metrics.cuts.WithLabelValues("failure").Inc()
		return err
	}
	i.metrics.cuts.WithLabelValues("success").Inc()
	return nil
}

func (h *head) blockRange(i *Ingester) int64 {
	return time.Duration(i.cfg.BlockRange).Milliseconds()
}

// borderAfter is the first block border behind t (ms). Borders are multiples
// of the width, also before 1970.
func borderAfter(t, width int64) int64 {
	b := t / width * width
	if b > t {
		b -= width
	}
	return b + width
}

// nextBorder is where a tenant of the pool can go over to a head of its own:
// behind all samples it has stored or may store in this minute.
func (i *Ingester) nextBorder(m *member) int64 {
	return borderAfter(max(m.newest.Load(), time.Now().UnixMilli()), time.Duration(i.cfg.BlockRange).Milliseconds())
}

// rehouse gives a tenant that has outgrown the pool a head of its own from the
// next block border on, and closes one that is empty.
func (i *Ingester) rehouse(m *member, idleSince time.Time) error {
	h := m.own.Load()
	switch {
	case h == nil && m.series.Load() >= int64(i.cfg.OwnHeadAbove):
		return i.place(m, i.nextBorder(m))
	case h != nil && h.appended.Load() < idleSince.UnixMilli() && h.empty() && m.ownFrom.Load() < idleSince.UnixMilli():
		return i.unplace(m, h)
	default:
		return nil
	}
}

// flush cuts and ships all that the heads hold, and returns the blocks that
// went to the bucket.
func (i *Ingester) flush(ctx context.Context, heads []*head) (shipped []string, err error) {
	for _, h := range heads {
		h.cutting.Lock()
		cutErr := i.cutAll(ctx, h)
		h.cutting.Unlock()
		ids, shipErr := i.shipHead(ctx, h)
		for _, id := range ids {
			shipped = append(shipped, id.String())
		}
		err = errors.Join(err, cutErr, shipErr)
	}
	return shipped, err
}
