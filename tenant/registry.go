package tenant

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hearth-metrics/hearth/bucket"
)

// Registry is all tenants, tokens and plans, in memory. Lookups take no lock
// and never ask the bucket. It is a service: while it runs it hears of changes
// that other processes make. Safe for concurrent use.
type Registry struct {
	services.Service

	cfg     Config
	limits  LimitsConfig
	bucket  bucket.Bucket
	news    News   // nil: no other process
	dir     string // copies of the objects, for a start while the bucket is away
	logger  *slog.Logger
	metrics *metrics
	now     func() time.Time

	firstToken string // file for an operator's token that is still to be made, "" for none

	shards [shards]atomic.Pointer[shard]
	plans  atomic.Pointer[planLimits]
	known  atomic.Bool // all shards were read once, from the bucket or from dir
	used   sync.Map    // id of a token -> *atomic.Int64, seconds since 1970

	// One change at a time for each shard: the others would meet each other in
	// the bucket and start again.
	changing [shards]sync.Mutex

	wanted chan int // shards that others have changed
}

// Options is what a registry needs besides its configuration.
type Options struct {
	Limits  LimitsConfig
	Bucket  bucket.Bucket
	DataDir string

	// FirstToken has an operator's token made, in the data folder, where there
	// is none.
	FirstToken bool
}

// New makes a registry. It is empty until the service has started.
func New(cfg Config, o Options, logger *slog.Logger, reg prometheus.Registerer) (*Registry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Registry{
		cfg: cfg, limits: o.Limits, bucket: o.Bucket,
		dir: filepath.Join(o.DataDir, "tenants"), logger: logger, now: time.Now,
		wanted: make(chan int, 4*shards),
	}
	for n := range r.shards {
		r.shards[n].Store(newShard())
	}
	r.plans.Store(r.planLimits(nil))
	if o.FirstToken {
		r.firstToken = filepath.Join(o.DataDir, operatorTokenFile)
	}
	r.metrics = newMetrics(reg, r)
	r.Service = services.NewBasicService(r.start, r.run, r.stop)
	return r, nil
}

// Share lets other processes hear of changes, and this one of theirs. It is
// called before the service starts.
func (r *Registry) Share(n News) { r.news = n }

// startPatience is how long a bucket that hangs holds up the start.
const startPatience = 20 * time.Second

// start reads everything. A bucket that is away is no reason not to start:
// there may be a copy on disk, and trusted headers need no registry.
func (r *Registry) start(ctx context.Context) error {
	began := time.Now()
	patient, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	err := r.readAll(patient)
	if err != nil && ctx.Err() == nil {
		r.logger.Warn("registry of tenants not read from the bucket, will retry", "copy_on_disk", r.readCopies(), "err", err)
	}
	r.metrics.load.Set(time.Since(began).Seconds())
	r.warnOfHiddenPlans()
	r.makeFirstToken(ctx)
	return ctx.Err()
}

const (
	pollPeriod  = time.Hour       // for changes that were not heard of
	retryPeriod = 5 * time.Second // while the registry is not known
	usedPeriod  = 24 * time.Hour  // how coarse the last use of a token is kept
)

func (r *Registry) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if r.news != nil {
		wg.Go(func() { r.listen(ctx) })
	}
	retry, poll, used := time.NewTicker(retryPeriod), time.NewTicker(pollPeriod), time.NewTicker(pollPeriod)
	defer retry.Stop()
	defer poll.Stop()
	defer used.Stop()
	var failed []int
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-r.wanted:
			if r.reread(ctx, n) != nil {
				failed = append(failed, n)
			}
		case <-retry.C:
			if !r.known.Load() {
				r.pollAll(ctx)
			}
			r.makeFirstToken(ctx)
			again := failed
			failed = nil
			for _, n := range again {
				if r.refresh(ctx, n) != nil {
					failed = append(failed, n)
				}
			}
		case <-poll.C:
			r.pollAll(ctx)
		case <-used.C:
			r.storeUses(ctx)
		}
	}
}

// stop keeps what is known of the use of tokens.
func (r *Registry) stop(error) error {
	ctx, cancel := context.WithTimeout(context.Background(), retryPeriod)
	defer cancel()
	r.storeUses(ctx)
	return nil
}

func (r *Registry) pollAll(ctx context.Context) {
	if err := r.readAll(ctx); err != nil && ctx.Err() == nil {
		r.logger.Warn("registry of tenants not read from the bucket, will retry", "err", err)
	}
}

// Known says whether tokens can be told right from wrong: at the very first
// start with a bucket that is away they cannot.
func (r *Registry) Known() bool { return r.known.Load() }

// Tenant returns a tenant's record.
func (r *Registry) Tenant(id ID) (Tenant, bool) {
	e := r.tenant(id)
	if e == nil {
		return Tenant{}, false
	}
	return e.Tenant, true
}

func (r *Registry) tenant(id ID) *tenantEntry { return r.shards[shardOf(id)].Load().tenants[id] }

// errTokenUnknown is every way in which a token can be wrong. Which one it is
// would help only those who guess.
var errTokenUnknown = errors.New("unknown token")

// identify finds the token that a text is the secret of.
func (r *Registry) identify(text string) (*tokenEntry, error) {
	id, hash, ok := readToken(text)
	if !ok {
		return nil, errTokenUnknown
	}
	n, ok := shardOfToken(id)
	if !ok {
		return nil, errTokenUnknown
	}
	t := r.shards[n].Load().tokens[id]
	if t == nil || !t.isSecret(hash) {
		return nil, errTokenUnknown
	}
	now := r.now()
	if !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt) {
		return nil, errTokenUnknown
	}
	r.noteUse(id, now)
	return t, nil
}

func (r *Registry) noteUse(id string, now time.Time) {
	at, ok := r.used.Load(id)
	if !ok {
		at, _ = r.used.LoadOrStore(id, new(atomic.Int64))
	}
	if s := at.(*atomic.Int64); s.Load() < now.Unix() {
		s.Store(now.Unix())
	}
}

// lastUse is the token with its last use as this process knows it.
func (r *Registry) lastUse(t Token) Token {
	if at, ok := r.used.Load(t.ID); ok {
		if used := time.Unix(at.(*atomic.Int64).Load(), 0).UTC(); used.After(t.LastUsedAt) {
			t.LastUsedAt = used
		}
	}
	return t
}

// storeUses writes the last use of tokens whose stored one is old, and with it
// those of their neighbours: an object is written once a day, not for each.
func (r *Registry) storeUses(ctx context.Context) {
	stale := map[int]bool{}
	r.used.Range(func(k, _ any) bool {
		id := k.(string)
		n, _ := shardOfToken(id)
		t := r.shards[n].Load().tokens[id]
		switch {
		case t == nil:
			r.used.Delete(id)
		case r.lastUse(t.Token).LastUsedAt.Sub(t.LastUsedAt) >= usedPeriod:
			stale[n] = true
		}
		return true
	})
	for n := range stale {
		err := r.change(ctx, n, func(d *draft) error {
			for id, t := range d.tokens {
				c := *t
				c.Token = r.lastUse(t.Token)
				d.tokens[id] = &c
			}
			return nil
		})
		if err != nil {
			r.logger.Debug("last use of tokens not stored, will retry", "err", err)
		}
	}
}
