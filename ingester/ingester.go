// Package ingester is IN 2: recent data. It appends what distributors hand it
// to a write-ahead log and a head, answers selects from them, cuts heads into
// blocks on block borders and ships the blocks to the bucket.
//
// A head is a Prometheus TSDB. Small tenants share a few pooled heads, in
// which each series carries its tenant as a hidden first label; a tenant that
// is big, or whose limits say so, has a head of its own. What Push has
// returned for is in a write-ahead log and survives the process.
//
// Start reading at Push in push.go, then head.go (one head), tenants.go (who
// lives where), select.go (the way out), cut.go and ship.go.
package ingester

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/cores"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// pools is how many pooled heads a new data folder gets: enough that replay
// and cutting use the cores of a small machine, few enough that a block of
// thousands of tenants stays one block.
const pools = 4

// Ingester holds the recent data of all tenants on this process. It is a
// dskit service: it is ready when every write-ahead log is replayed.
type Ingester struct {
	services.Service

	cfg     Config
	dir     string // <data dir>/ingester
	bucket  bucket.Bucket
	limits  func(tenant.ID) *tenant.Limits
	logger  *slog.Logger
	metrics *metrics

	pools  []*head
	series atomic.Int64 // in memory, of all tenants

	room     room
	full     atomic.Bool  // writes are refused, and the log says so
	waitsFor atomic.Value // string, see WaitsFor
	memory   memory
	crowded  atomic.Bool // new series are refused, and the log says so

	excluding sync.Mutex // see exclusive

	// If taking both placing and mu, take placing first.
	placing   sync.Mutex
	placement placements // on disk before it takes effect

	mu      sync.RWMutex
	tenants map[tenant.ID]*member

	// share is how a tenant's series are spread: copies of each, over members.
	share func(id tenant.ID) (copies, members int)

	cutUpTo  time.Duration // see CutUpTo
	ownBytes int64         // ownBytes; tests change it

	shipNow  chan struct{} // wakes the ship loop
	flushNow chan []*head  // flushes that nobody waits for, a few
}

// New makes an ingester that keeps its data below dataDir. Nothing is opened
// before the service starts.
func New(cfg Config, dataDir string, b bucket.Bucket, limits func(tenant.ID) *tenant.Limits, logger *slog.Logger, reg prometheus.Registerer) (*Ingester, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	i := &Ingester{
		cfg:      cfg,
		dir:      filepath.Join(dataDir, "ingester"),
		bucket:   b,
		limits:   limits,
		logger:   logger,
		metrics:  newMetrics(reg),
		tenants:  map[tenant.ID]*member{},
		shipNow:  make(chan struct{}, 1),
		flushNow: make(chan []*head, 4),
	}
	i.room.dir, i.ownBytes = i.dir, ownBytes
	i.share = func(tenant.ID) (copies, members int) { return 1, 1 }
	i.Service = services.NewBasicService(i.starting, i.running, i.stopping)
	return i, nil
}

// ShareLimits divides limits on series by how a tenant's series are spread over
// ingesters, so that they hold for all together. It is called before the
// service starts.
func (i *Ingester) ShareLimits(share func(id tenant.ID) (copies, members int)) { i.share = share }

// localSeries is this ingester's part of a limit on a tenant's series.
func (i *Ingester) localSeries(id tenant.ID, limit int) int64 {
	copies, members := i.share(id)
	if members <= copies {
		return int64(limit)
	}
	return max(1, int64(limit)*int64(copies)/int64(members))
}

// starting opens every head that the data folder has.
func (i *Ingester) starting(ctx context.Context) error {
	begun := time.Now()
	if err := os.MkdirAll(i.dir, 0o777); err != nil {
		return err
	}
	if err := i.openWithRoom(ctx, i.open); err != nil {
		return err
	}
	i.metrics.replay.Set(time.Since(begun).Seconds())
	return nil
}

// open replays as many write-ahead logs at once as there are processors. If it
// fails, nothing is left open.
func (i *Ingester) open() error {
	placed, err := readPlacements(i.dir)
	if err != nil {
		return err
	}
	i.placement = placed
	n, err := poolsOnDisk(i.dir)
	if err != nil {
		return err
	}
	i.pools = make([]*head, n)

	var g errgroup.Group
	g.SetLimit(max(2, cores.Count()))
	for p := range i.pools {
		g.Go(func() (err error) {
			i.pools[p], err = i.openHead(poolName(p), "")
			return err
		})
	}
	for id, from := range placed {
		g.Go(func() error {
			h, err := i.openHead(ownName(id), id)
			if err == nil {
				i.member(id).settle(h, from)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return errors.Join(err, i.closeHeads())
	}
	return nil
}

// running cuts and ships until the service is told to stop.
func (i *Ingester) running(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { i.cutLoop(ctx); return nil })
	g.Go(func() error { i.shipLoop(ctx); return nil })
	return g.Wait()
}

func (i *Ingester) stopping(error) error { return i.closeHeads() }

func (i *Ingester) closeHeads() error {
	var errs []error
	for _, h := range i.heads() {
		errs = append(errs, i.close(h))
	}
	return errors.Join(errs...)
}

// heads lists all open heads, pooled ones first.
func (i *Ingester) heads() []*head {
	var out []*head
	for _, h := range i.pools {
		if h != nil {
			out = append(out, h)
		}
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	for _, m := range i.tenants {
		if h := m.own.Load(); h != nil {
			out = append(out, h)
		}
	}
	return out
}

// poolOf is the pooled head that a tenant's samples live in while it is small.
func (i *Ingester) poolOf(id tenant.ID) *head {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return i.pools[h.Sum32()%uint32(len(i.pools))]
}

func poolName(n int) string              { return "pool-" + strconv.Itoa(n) }
func ownName(id tenant.ID) string        { return filepath.Join("tenants", string(id)) }
func (i *Ingester) path(n string) string { return filepath.Join(i.dir, n) }

// poolsOnDisk counts the pooled heads of an existing data folder: tenants are
// placed by their number, so it never changes once there is data.
func poolsOnDisk(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "pool-") {
			n++
		}
	}
	if n == 0 {
		return pools, nil
	}
	for p := range n {
		if _, err := os.Stat(filepath.Join(dir, poolName(p))); err != nil {
			return 0, fmt.Errorf("data folder is incomplete: %d pooled heads, but %w", n, err)
		}
	}
	return n, nil
}

// errStopping is what a push meets that comes before the heads are open or
// after they are closed.
func errStopping() error {
	return &wire.UserError{Kind: wire.Unavailable, ID: "err-ingester-not-ready", Msg: "the ingester is starting or stopping, send the request again", RetryAfter: 5 * time.Second}
}
