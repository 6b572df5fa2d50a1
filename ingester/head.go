package ingester

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"golang.org/x/sync/semaphore"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// head is one TSDB: a pooled one, whose series carry their tenant as a hidden
// first label, or a tenant's own.
type head struct {
	name   string // folder below the ingester's, and name in logs
	dir    string
	tenant tenant.ID // "" for a pooled head
	home   bucket.Key
	db     *tsdb.DB // heal changes it, holding cutting and all of users, while closed is set
	logs   *logWatch
	counts *lifecycle
	refs   refs

	users  *semaphore.Weighted // who reads from db holds one, see use
	hurt   atomic.Bool         // a log could not be written: no appends until heal is done
	mended healing

	shipped *shippedBlocks

	// One cut and one shipping at a time, each beside the other: a bucket that
	// hangs does not keep the head from being cut.
	cutting  sync.Mutex
	shipping sync.Mutex

	// appenders is held for reading from opening an appender to its commit,
	// and for writing by exclusive. A push may hold it on two heads at once.
	appenders sync.RWMutex
	closed    bool // guarded by appenders

	seriesAfterCut uint64 // see mayWait; guarded by cutting

	appended atomic.Int64 // ms of the wall clock; the last commit
}

func (h *head) pooled() bool { return h.tenant == "" }

func (h *head) kind() string {
	if h.pooled() {
		return "pool"
	}
	return "own"
}

// outOfOrderHorizon is how far behind its newest sample a head takes samples
// at least. It is wide, so that one tenant of a pool can catch up after an
// outage while others are hours ahead; each tenant's own window is checked
// before the append.
const outOfOrderHorizon = 12 * time.Hour

// openHead opens a head and replays its write-ahead log. id is empty for a
// pooled head.
func (i *Ingester) openHead(name string, id tenant.ID) (*head, error) {
	h := &head{name: name, dir: i.path(name), tenant: id, home: bucket.PoolHome, users: semaphore.NewWeighted(everyone)}
	if !h.pooled() {
		h.home = bucket.TenantHome(string(id))
	}
	var err error
	if h.shipped, err = readShipped(h.dir); err != nil {
		return nil, err
	}
	if err := h.shipped.broken; err != nil {
		i.logger.Warn("list of shipped blocks is broken, all that are on disk are shipped again", "head", name, "file", h.shipped.path, "err", err)
	}
	if err := i.openDB(h); err != nil {
		return nil, err
	}
	h.seriesAfterCut = h.db.Head().NumSeries()
	h.appended.Store(time.Now().UnixMilli())
	i.metrics.heads.WithLabelValues(h.kind()).Inc()
	return h, nil
}

// openDB opens a head's TSDB. A TSDB that had to repair its write-ahead log has
// not read the log of out-of-order samples any more, so it is opened again then.
// If openDB fails, nothing is left open or counted.
func (i *Ingester) openDB(h *head) error {
	const repairs = 3 // one of each log, and one more
	for tries := 0; ; tries++ {
		if err := i.tryOpenDB(h); err != nil {
			return fmt.Errorf("open head %s: %w", h.name, err)
		}
		if !h.logs.repaired() {
			return nil
		}
		h.counts.forget()
		if err := closeBroken(h.db); err != nil {
			return fmt.Errorf("close head %s after a repair: %w", h.name, err)
		}
		if tries == repairs {
			return fmt.Errorf("open head %s: its logs were repaired %d times, and are still broken", h.name, repairs+1)
		}
	}
}

func (i *Ingester) tryOpenDB(h *head) error {
	logger := i.logger.With("head", h.name)
	if err := undoRepair(h.dir); err != nil {
		return err
	}
	if err := mend(h.dir, logger); err != nil {
		return err
	}
	logs, counts := &logWatch{}, newLifecycle(i, h)
	counts.replaying.Store(true)
	db, err := tsdb.Open(h.dir, slog.New(atLeast{slog.LevelWarn, logger.Handler()}), logs, i.headOptions(h, counts), nil)
	if err != nil {
		counts.forget()
		return err
	}
	if len(logs.failures) != 2 || logs.repairs == nil {
		panic("BUG: the TSDB does not tell any more how its logs are")
	}
	counts.replaying.Store(false)
	db.DisableCompactions() // cutLoop decides when
	h.db, h.logs, h.counts = db, logs, counts
	return nil
}

// headOptions sizes a TSDB. Upstream's defaults are made for one TSDB in a
// process; here there may be thousands, so what each allocates up front (4 MiB
// of chunk write buffer, 16,384 stripes) is cut down for tenants' own heads.
func (i *Ingester) headOptions(h *head, counts *lifecycle) *tsdb.Options {
	o := tsdb.DefaultOptions()
	o.MinBlockDuration = time.Duration(i.cfg.BlockRange).Milliseconds()
	o.MaxBlockDuration = o.MinBlockDuration
	o.EnableOverlappingCompaction = false                  // merging is the compactor's
	o.IsolationDisabled = true                             // saves a ring of ids per series; a read may see part of a push in progress
	o.OutOfOrderTimeWindow = i.horizon(i.limits(h.tenant)) // of "" for a pooled head: the defaults
	o.EnableExemplarStorage = true
	o.SeriesLifecycleCallback = counts
	o.BlocksToDelete = func(blocks []*tsdb.Block) map[ulidT]struct{} { return i.spent(h, blocks) }
	if h.pooled() {
		o.StripeSize = 8192
		o.HeadChunksWriteBufferSize = 256 << 10
		o.MaxExemplars = 20_000
		return o
	}
	o.StripeSize = 1024
	o.HeadChunksWriteBufferSize = chunks.MinWriteBufferSize
	o.MaxExemplars = 10_000
	return o
}

// exclusive runs f while no appender is open in h. One head at a time in the
// whole ingester: were two heads to wait for their appenders, two pushes that
// hold one each and want the other's would wait for ever.
func (i *Ingester) exclusive(h *head, f func() error) error {
	i.excluding.Lock()
	defer i.excluding.Unlock()
	h.appenders.Lock()
	defer h.appenders.Unlock()
	return f()
}

// close closes the head's TSDB once the appends in progress are done.
func (i *Ingester) close(h *head) error {
	return i.exclusive(h, func() error {
		if h.closed {
			return nil
		}
		h.closed = true
		i.metrics.heads.WithLabelValues(h.kind()).Dec()
		h.counts.forget()
		return closeBroken(h.db)
	})
}

// empty says that a head holds neither series nor blocks.
func (h *head) empty() bool {
	return h.db.Head().NumSeries() == 0 && len(h.db.Blocks()) == 0
}

// labels builds the labels of a series as this head keeps them.
func (h *head) labels(b *labels.ScratchBuilder, id tenant.ID, own []wire.Label) labels.Labels {
	add := func(b *labels.ScratchBuilder) {
		for _, l := range own {
			b.Add(l.Name, l.Value)
		}
	}
	if h.pooled() {
		return bucket.PoolLabels(b, string(id), add)
	}
	b.Reset()
	add(b)
	return b.Labels()
}

// owner is the inverse of labels.
func (h *head) owner(ls labels.Labels) (tenant.ID, labels.Labels) {
	if !h.pooled() {
		return h.tenant, ls
	}
	id, own := bucket.SplitPoolLabels(ls)
	return tenant.ID(id), own
}

// atLeast passes on records from a level up: a TSDB reports its routine at
// level info, which is news only where there is one of them.
type atLeast struct {
	level slog.Level
	slog.Handler
}

func (a atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= a.level && a.Handler.Enabled(ctx, l)
}

func (a atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{a.level, a.Handler.WithAttrs(attrs)}
}

func (a atLeast) WithGroup(name string) slog.Handler {
	return atLeast{a.level, a.Handler.WithGroup(name)}
}
