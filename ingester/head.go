package ingester

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"

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
	db     *tsdb.DB
	refs   refs

	shipped *shippedBlocks

	// One cut and one shipping at a time, each beside the other: a bucket that
	// hangs does not keep the head from being cut.
	cutting  sync.Mutex
	shipping sync.Mutex

	// appenders is held for reading from opening an appender to its commit,
	// and for writing by exclusive. A push may hold it on two heads at once.
	appenders sync.RWMutex
	closed    bool // guarded by appenders

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
	h := &head{name: name, dir: i.path(name), tenant: id, home: bucket.PoolHome}
	if !h.pooled() {
		h.home = bucket.TenantHome(string(id))
	}
	var err error
	if h.shipped, err = readShipped(h.dir); err != nil {
		return nil, err
	}
	if err := mend(h.dir, i.logger.With("head", name)); err != nil {
		return nil, fmt.Errorf("open head %s: %w", name, err)
	}
	logger := slog.New(atLeast{slog.LevelWarn, i.logger.With("head", name).Handler()})
	h.db, err = tsdb.Open(h.dir, logger, nil, i.headOptions(h), nil)
	if err != nil {
		return nil, fmt.Errorf("open head %s: %w", name, err)
	}
	h.db.DisableCompactions() // cutLoop decides when
	h.appended.Store(time.Now().UnixMilli())
	i.metrics.heads.WithLabelValues(h.kind()).Inc()
	return h, nil
}

// headOptions sizes a TSDB. Upstream's defaults are made for one TSDB in a
// process; here there may be thousands, so what each allocates up front (4 MiB
// of chunk write buffer, 16,384 stripes) is cut down for tenants' own heads.
func (i *Ingester) headOptions(h *head) *tsdb.Options {
	o := tsdb.DefaultOptions()
	o.MinBlockDuration = time.Duration(i.cfg.BlockRange).Milliseconds()
	o.MaxBlockDuration = o.MinBlockDuration
	o.EnableOverlappingCompaction = false                  // merging is the compactor's
	o.IsolationDisabled = true                             // saves a ring of ids per series; a read may see part of a push in progress
	o.OutOfOrderTimeWindow = i.horizon(i.limits(h.tenant)) // of "" for a pooled head: the defaults
	o.EnableExemplarStorage = true
	o.SeriesLifecycleCallback = lifecycle{i, h}
	o.BlocksToDelete = func(blocks []*tsdb.Block) map[ulidT]struct{} {
		return h.shipped.olderThan(blocks, time.Now().Add(-time.Duration(i.cfg.KeepShipped)))
	}
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
		return h.db.Close()
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

// lifecycle counts a head's series by tenant and keeps the cache of references
// in step with it. The head calls it while it creates and deletes series.
type lifecycle struct {
	i *Ingester
	h *head
}

var _ tsdb.SeriesLifecycleCallback = lifecycle{}

// PreCreation refuses a series that is over its tenant's limit.
func (l lifecycle) PreCreation(ls labels.Labels) error {
	if l.i.replaying.Load() {
		return nil
	}
	id := l.h.tenant
	if l.h.pooled() {
		id = tenant.ID(ls.Get(bucket.PoolLabel))
	}
	limit := l.i.limits(id).MaxSeries
	if limit <= 0 {
		return nil
	}
	if n, most := l.i.member(id).series.Load(), l.i.localSeries(id, limit); n >= most {
		// What the tenant has in all follows from this ingester's part.
		return wire.Errorf(wire.Invalid, "err-max-series", "series limit reached: %d of %d (limit max_series); remove labels that vary, or ask for a higher limit", n*int64(limit)/most, limit)
	}
	return nil
}

// PostCreation counts a new series.
func (l lifecycle) PostCreation(ls labels.Labels) {
	id := l.h.tenant
	if l.h.pooled() {
		id = tenant.ID(ls.Get(bucket.PoolLabel))
	}
	l.i.member(id).series.Add(1)
	l.i.metrics.series.WithLabelValues(l.h.kind()).Inc()
}

// PostDeletion forgets series that are gone from memory.
func (l lifecycle) PostDeletion(gone map[chunks.HeadSeriesRef]labels.Labels) {
	for ref, ls := range gone {
		id, own := l.h.owner(ls)
		l.i.member(id).series.Add(-1)
		l.h.refs.drop(wire.KeyOf(string(id), own), storage.SeriesRef(ref))
	}
	l.i.metrics.series.WithLabelValues(l.h.kind()).Sub(float64(len(gone)))
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
