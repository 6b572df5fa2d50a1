package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hearth-metrics/hearth/app"
	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// untilSignal is the context of commands that take their time.
func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// blocksFlags are those of the commands that ask no running Hearth.
func (c *caller) blocksFlags(name string) *flag.FlagSet {
	fs := c.localFlags(name)
	fs.StringVar(&c.output, "o", "table", "how to print: table or json")
	return fs
}

// bucketFlags find a bucket by a configuration of Hearth.
type bucketFlags struct{ source app.Source }

func (f *bucketFlags) add(fs *flag.FlagSet, prefix, which string) {
	f.source.Getenv = os.LookupEnv
	fs.StringVar(&f.source.File, prefix+"config", "", "`file` with the configuration of the Hearth "+which)
	fs.Func(prefix+"set", "set one value of that configuration, `path=value`; repeatable", func(s string) error {
		f.source.Set = append(f.source.Set, s)
		return nil
	})
}

// open opens the bucket. The caller calls done.
func (f *bucketFlags) open() (b bucket.Bucket, done func(), err error) {
	cfg, err := app.Load(f.source)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the configuration cannot be used: %w", errUsage, err)
	}
	b, err = bucket.New(cfg.Bucket, cfg.DataDir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		return nil, nil, fmt.Errorf("open the bucket: %w", err)
	}
	return b, func() {
		if c, ok := b.(io.Closer); ok {
			_ = c.Close() // the command is at its end
		}
	}, nil
}

// place is where blocks are, in a bucket.
type place struct {
	bucketFlags
	tenant string
	pool   bool
	root   bool
}

func (p *place) add(fs *flag.FlagSet) {
	p.bucketFlags.add(fs, "", "whose bucket it is; without it the defaults hold")
	fs.StringVar(&p.tenant, "tenant", "", "the `tenant` whose blocks they are: its own, and those of the pool that have series of it")
	fs.BoolVar(&p.pool, "pool", false, "all blocks of the pool instead")
	fs.BoolVar(&p.root, "root", false, "the blocks at the root of the bucket instead, as in a bucket of Thanos")
}

// check wants exactly one of the flags that say where.
func (p *place) check() error {
	n := 0
	for _, set := range []bool{p.tenant != "", p.pool, p.root} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("%w: want one of -tenant, -pool and -root", errUsage)
	}
	if p.tenant == "" {
		return nil
	}
	_, err := tenant.ParseID(p.tenant)
	return err
}

// enter opens the bucket and lists the blocks of a place, by time. The caller
// calls done.
func (p *place) enter(ctx context.Context) (b bucket.Bucket, all []stocked, done func(), err error) {
	if err := p.check(); err != nil {
		return nil, nil, nil, err
	}
	if b, done, err = p.open(); err != nil {
		return nil, nil, nil, err
	}
	if all, err = p.stock(ctx, b); err != nil {
		done()
		return nil, nil, nil, err
	}
	return b, all, done, nil
}

// stocked is a block in a bucket.
type stocked struct {
	home      bucket.Key
	tenant    string // pooled, and of interest for this one
	entry     bucket.IndexBlock
	deleted   bool // it has a deletion mark
	noCompact bool
}

// stock lists the blocks of a place, by time.
func (p *place) stock(ctx context.Context, b bucket.Bucket) (all []stocked, err error) {
	switch {
	case p.root:
		all, err = stockOf(ctx, b, "")
	case p.pool:
		all, err = stockOf(ctx, b, bucket.PoolHome)
	default:
		if all, err = stockOf(ctx, b, bucket.TenantHome(p.tenant)); err != nil {
			return nil, err
		}
		var pooled []stocked
		pooled, err = pooledStock(ctx, b, p.tenant)
		all = append(all, pooled...)
	}
	slices.SortStableFunc(all, func(a, b stocked) int {
		return int(max(-1, min(1, a.entry.MinTime-b.entry.MinTime)))
	})
	return all, err
}

func stockOf(ctx context.Context, b bucket.Bucket, home bucket.Key) ([]stocked, error) {
	x, err := bucket.PeekIndex(ctx, b, home)
	if err != nil {
		return nil, err
	}
	marks, err := bucket.ReadMarkers(ctx, b, home)
	if err != nil {
		return nil, err
	}
	all := make([]stocked, len(x.Blocks))
	for i, entry := range x.Blocks {
		_, marked := marks.Deletion[entry.ID]
		all[i] = stocked{home: home, entry: entry, deleted: marked || x.Marked(entry.ID), noCompact: marks.NoCompact[entry.ID]}
	}
	return all, nil
}

// pooledStock is the blocks of the pool that have series of a tenant.
func pooledStock(ctx context.Context, b bucket.Bucket, id string) ([]stocked, error) {
	all, err := stockOf(ctx, b, bucket.PoolHome)
	if err != nil {
		return nil, err
	}
	var mine []stocked
	for _, s := range all {
		if part, n := bucket.ParseShardID(s.entry.CompactorShardID); bucket.PoolShard(id, n) != part {
			continue
		}
		tenants, err := bucket.ReadTenants(ctx, b, s.entry.ID)
		if err != nil {
			return nil, err
		}
		if _, ok := tenants[id]; ok {
			s.tenant = id
			mine = append(mine, s)
		}
	}
	return mine, nil
}

// selectBlocks parses names of blocks. Without any all are meant.
func selectBlocks(names []string) (func(ulid.ULID) bool, error) {
	var ids []ulid.ULID
	for _, name := range names {
		id, ok := bucket.ParseBlockID(name)
		if !ok {
			return nil, fmt.Errorf("%w: %q is not the name of a block, a ULID", errUsage, name)
		}
		ids = append(ids, id)
	}
	return func(id ulid.ULID) bool { return len(ids) == 0 || slices.Contains(ids, id) }, nil
}

// blockRow is a block as it is listed.
type blockRow struct {
	Block     string    `json:"block"`
	Home      string    `json:"home"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Level     int       `json:"level"`
	Part      string    `json:"part,omitempty"`
	Series    uint64    `json:"series"`
	Samples   uint64    `json:"samples"`
	Size      int64     `json:"size"`
	Deletion  bool      `json:"deletion_mark"`
	NoCompact bool      `json:"no_compact_mark"`
}

func (s *stocked) row() blockRow {
	e := &s.entry
	return blockRow{
		Block: e.ID.String(), Home: homeName(s.home), From: msTime(e.MinTime), To: msTime(e.MaxTime), Level: e.CompactionLevel, Part: e.CompactorShardID,
		Series: e.Series, Samples: e.Samples, Size: e.Size, Deletion: s.deleted, NoCompact: s.noCompact,
	}
}

func (r *blockRow) marks() string {
	switch {
	case r.Deletion:
		return "deletion"
	case r.NoCompact:
		return "no-compact"
	default:
		return ""
	}
}

func homeName(home bucket.Key) string {
	switch home {
	case "":
		return "/"
	case bucket.PoolHome:
		return "pool"
	default:
		return string(home)
	}
}

func msTime(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func blocksList(c *caller, args []string) error {
	var p place
	fs := c.blocksFlags("blocks list -tenant <id>")
	p.add(fs)
	if _, err := c.parse(fs, args, 0); err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	_, all, done, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	rows := make([]blockRow, len(all))
	for i := range all {
		rows[i] = all[i].row()
	}
	if c.output == "json" {
		return json.NewEncoder(c.stdout).Encode(rows)
	}
	return c.table("BLOCK HOME FROM TO LEVEL PART SERIES SAMPLES SIZE MARK", func(row func(...any)) {
		for _, r := range rows {
			row(r.Block, r.Home, r.From, r.To, r.Level, r.Part, r.Series, r.Samples, r.Size, r.marks())
		}
	})
}

func blocksMark(c *caller, args []string) error {
	var p place
	var as, why string
	fs := c.blocksFlags("blocks mark -tenant <id> -as deletion|no-compact <block>...")
	p.add(fs)
	fs.StringVar(&as, "as", "", "deletion: to be removed, and left out of queries from now on; no-compact: read, but left alone by compactions")
	fs.StringVar(&why, "reason", "by hand", "`text` for who finds the mark")
	names, err := c.parseAny(fs, args)
	if err != nil {
		return err
	}
	chosen, err := selectBlocks(names)
	switch {
	case err != nil:
		return err
	case len(names) == 0, as != "deletion" && as != "no-compact":
		return fmt.Errorf("%w: want -as deletion or -as no-compact, and names of blocks", errUsage)
	case p.root:
		return fmt.Errorf("%w: blocks at the root are Thanos', mark them with its tools", errUsage)
	}
	ctx, stop := untilSignal()
	defer stop()
	b, all, done, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	marked := 0
	for _, s := range all {
		if !chosen(s.entry.ID) {
			continue
		}
		if s.tenant != "" && as == "deletion" {
			return fmt.Errorf("block %s is of the pool, and has other tenants in it; it is marked with -pool", s.entry.ID)
		}
		if err := s.mark(ctx, b, as, why); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s marked for %s\n", s.entry.ID, as)
		marked++
	}
	if marked < len(names) {
		return fmt.Errorf("%d blocks are marked, %d were named: the others are not there", marked, len(names))
	}
	return nil
}

// mark marks a block for Hearth, whose index counts, and for others. A
// compactor comes by to act on it.
func (s *stocked) mark(ctx context.Context, b bucket.Bucket, as, why string) error {
	now := time.Now()
	if as == "no-compact" {
		return bucket.WriteNoCompactMark(ctx, b, s.home, s.entry.ID, why, now)
	}
	err := bucket.UpdateIndex(ctx, b, s.home, func(x *bucket.Index) error {
		x.MarkDeletion(s.entry.ID, now)
		return nil
	})
	if err == nil {
		err = bucket.WriteDeletionMark(ctx, b, s.home, s.entry.ID, why, now)
	}
	if err != nil || s.home == bucket.PoolHome {
		return err
	}
	return bucket.NoteDue(ctx, b, string(s.home), now, ulid.Make().String())
}
