package ingester

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"github.com/hearth-metrics/hearth/wire"
)

// A write to a log can fail half way, as the disk is full or broken. What is
// written behind half a record is gone at the next start, and series whose
// record is missing are unknown then. So from the first failure on nothing is
// acknowledged, until the TSDB has been closed and opened: it repairs its log,
// which holds all that was acknowledged in front of the failure.

const (
	healEvery   = time.Second
	healAtLeast = 30 * time.Second // between two tries, in the end
	healWait    = time.Minute      // for queries to end
	useWait     = 5 * time.Second  // of a query, for a head that is opened anew
	everyone    = math.MaxInt32
)

// healing is how far a head is; only heal touches it.
type healing struct {
	shut  bool // the TSDB is closed, and all of users are held
	next  time.Time
	pause time.Duration
}

// logWatch is the Registerer of a TSDB. It keeps what the TSDB counts of its
// logs: how often each of the two could not be written, which a log counts
// before it lets another write in, so that whoever has written after a failure
// sees it; and how often one had to be repaired.
type logWatch struct {
	failures []prometheus.Metric
	repairs  prometheus.Metric
}

// Register implements prometheus.Registerer.
func (w *logWatch) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		c.Describe(descs)
	}()
	for d := range descs {
		switch name := d.String(); {
		case strings.Contains(name, `"prometheus_tsdb_wal_writes_failed_total"`), strings.Contains(name, `"prometheus_tsdb_out_of_order_wbl_writes_failed_total"`):
			w.failures = append(w.failures, only(c))
		case strings.Contains(name, `"prometheus_tsdb_wal_corruptions_total"`):
			w.repairs = only(c)
		}
	}
	return nil
}

// only is the metric of a collector that has one.
func only(c prometheus.Collector) prometheus.Metric {
	ms := make(chan prometheus.Metric, 1)
	c.Collect(ms)
	return <-ms
}

// MustRegister implements prometheus.Registerer.
func (w *logWatch) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		_ = w.Register(c) // does not fail
	}
}

// Unregister implements prometheus.Registerer.
func (w *logWatch) Unregister(prometheus.Collector) bool { return true }

func (w *logWatch) failed() bool   { return slices.ContainsFunc(w.failures, counted) }
func (w *logWatch) repaired() bool { return counted(w.repairs) }

// counted says whether a counter is above 0, or does not tell.
func counted(m prometheus.Metric) bool {
	var d dto.Metric
	return m.Write(&d) != nil || d.GetCounter().GetValue() > 0
}

const errStorage = "err-ingester-storage"

func errHurt() error {
	return &wire.UserError{Kind: wire.Unavailable, ID: errStorage, Msg: "the request could not be stored, send it again", RetryAfter: 5 * time.Second}
}

// checkLogs is called after something was written to a head's logs: nothing may
// be acknowledged if one of them is broken.
func (i *Ingester) checkLogs(h *head) error {
	if !h.logs.failed() {
		return nil
	}
	if h.hurt.CompareAndSwap(false, true) {
		i.logger.Error("log could not be written, writes are refused until it is repaired", "head", h.name)
	}
	return errHurt()
}

// use gives the TSDB of a head to somebody who reads, until done is called. If
// the head is just opened anew, it waits for that a little.
func (h *head) use(ctx context.Context) (db *tsdb.DB, done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, useWait)
	defer cancel()
	if err := h.users.Acquire(ctx, 1); err != nil {
		return nil, nil, errStopping()
	}
	return h.db, func() { h.users.Release(1) }, nil
}

// blocks lists the blocks of a head, none while it is opened anew.
func (h *head) blocks() []*tsdb.Block {
	if !h.users.TryAcquire(1) {
		return nil
	}
	defer h.users.Release(1)
	return h.db.Blocks()
}

// healAll opens those heads anew that need it. It runs in the goroutine of
// cutLoop only.
func (i *Ingester) healAll(ctx context.Context, now time.Time) {
	hurt := 0
	for _, h := range i.heads() {
		if !h.hurt.Load() {
			continue
		}
		hurt++
		if now.Before(h.mended.next) || i.room.shortage(i.series.Load()) != "" {
			continue
		}
		if err := i.heal(ctx, h); err != nil {
			h.mended.pause = min(max(healEvery, 2*h.mended.pause), healAtLeast)
			h.mended.next = now.Add(h.mended.pause)
			i.logger.Error("head could not be opened anew, will retry", "head", h.name, "err", err)
			continue
		}
		h.mended = healing{}
		hurt--
	}
	i.metrics.hurt.Set(float64(hurt))
}

func (i *Ingester) heal(ctx context.Context, h *head) error {
	h.cutting.Lock()
	defer h.cutting.Unlock()
	if !h.mended.shut {
		if gone, err := i.shut(ctx, h); gone || err != nil {
			return err
		}
	}
	if err := i.openDB(h); err != nil {
		return err
	}
	h.mended.shut = false
	h.users.Release(everyone)
	i.logger.Info("head was opened anew, writes are taken again", "head", h.name)
	return i.exclusive(h, func() error {
		h.closed = false
		h.hurt.Store(false)
		return nil
	})
}

// shut closes a head's TSDB when nobody uses it any more. It is gone if it was
// closed already.
func (i *Ingester) shut(ctx context.Context, h *head) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, healWait)
	defer cancel()
	if err := h.users.Acquire(ctx, everyone); err != nil {
		return false, fmt.Errorf("wait for queries to end: %w", err)
	}
	_ = i.exclusive(h, func() error { // does not fail
		gone, h.closed = h.closed, true
		return nil
	})
	if gone {
		h.users.Release(everyone)
		return true, nil
	}
	if err := closeBroken(h.db); err != nil {
		// What it could not write was not acknowledged. It is left as it is:
		// a few open files.
		i.logger.Warn("head could not be closed in order", "head", h.name, "err", err)
	}
	h.counts.forget()
	h.refs.reset()
	h.mended.shut = true
	return false, nil
}

// closeBroken closes a TSDB that panics when it cannot write a chunk.
func closeBroken(db *tsdb.DB) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("close: %v", p)
		}
	}()
	return db.Close()
}

// undoRepair takes back a repair of a log that did not end, as the process was
// killed or the disk full. The TSDB moves the segment that is broken aside and
// copies it; it would not look at it again, and what was not copied yet was
// lost. The repair begins anew with the segment as it was.
func undoRepair(dir string) error {
	for _, log := range []string{"wal", wlog.WblDirName} {
		aside, err := filepath.Glob(filepath.Join(dir, log, "*"+repairSuffix))
		if err != nil {
			return err
		}
		for _, from := range aside {
			if err := os.Rename(from, strings.TrimSuffix(from, repairSuffix)); err != nil {
				return fmt.Errorf("take back a repair: %w", err)
			}
		}
	}
	return nil
}

const repairSuffix = ".repair"
