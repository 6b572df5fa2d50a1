package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
	"github.com/hearth-metrics/hearth/tenant"
)

// writeLine prints a value as a line of JSON.
func writeLine(w io.Writer, v any) { _ = json.NewEncoder(w).Encode(v) } // who reads has gone: nobody to tell

// blocksCopy copies blocks of a tenant, or of a bucket of Thanos, to a tenant
// of the same or of another bucket.
func blocksCopy(c *caller, args []string) error {
	var from place
	var to target
	var o outside
	fs := c.blocksFlags("blocks copy -tenant <id>|-root -to-tenant <id> [<block>...]")
	from.add(fs)
	to.add(fs, "to-", "to copy to; without it the bucket is the same")
	fs.StringVar(&to.tenant, "to-tenant", "", "the `tenant` to copy to; without it the same")
	fs.BoolVar(&to.dry, "dry-run", false, "only tell what would be done")
	o.add(fs)
	names, err := c.parseAny(fs, args)
	if err != nil {
		return err
	}
	to.tenant = cmp.Or(to.tenant, from.tenant)
	if err := errors.Join(from.check(), o.check(), to.check(&from)); err != nil {
		return err
	}
	return c.move(&from, names, &o, func(src bucket.Bucket) (sink, func(), error) {
		if to.source.File == "" && len(to.source.Set) == 0 {
			to.bucket = src
			return &to, func() {}, nil
		}
		var done func()
		var err error
		to.bucket, done, err = to.open()
		return &to, done, err
	})
}

// blocksExport writes the blocks of a tenant as any Prometheus reads them.
func blocksExport(c *caller, args []string) error {
	var from place
	var to folder
	o := outside{how: "drop"}
	fs := c.blocksFlags("blocks export -tenant <id> -out <folder> [<block>...]")
	from.add(fs)
	fs.StringVar(&to.dir, "out", "", "the `folder` to write blocks to")
	names, err := c.parseAny(fs, args)
	if err != nil {
		return err
	}
	if err := from.check(); err != nil {
		return err
	}
	if to.dir == "" || from.tenant == "" {
		return fmt.Errorf("%w: want -tenant and -out", errUsage)
	}
	if err := os.MkdirAll(to.dir, 0o777); err != nil {
		return err
	}
	return c.move(&from, names, &o, func(bucket.Bucket) (sink, func(), error) { return &to, func() {}, nil })
}

// sink is where blocks go.
type sink interface {
	// begin says whether nothing is left to do for a block, and why; temp is
	// where it is to be fetched to, if there is.
	begin(ctx context.Context, meta bucket.IndexBlock) (result string, err error)

	// temp is the folder that temporary folders are made in.
	temp() string

	// take takes a plain block from local disk.
	take(ctx context.Context, dir string, meta *bucket.Meta) (result string, err error)
}

// move brings blocks from a bucket to a sink, one after the other. What fails
// does not keep the rest from being moved.
func (c *caller) move(from *place, names []string, o *outside, open func(bucket.Bucket) (sink, func(), error)) error {
	chosen, err := selectBlocks(names)
	if err != nil {
		return err
	}
	src, done, err := from.open()
	if err != nil {
		return err
	}
	defer done()
	to, toDone, err := open(src)
	if err != nil {
		return err
	}
	defer toDone()
	ctx, stop := untilSignal()
	defer stop()
	all, err := from.stock(ctx, src)
	if err != nil {
		return err
	}
	j := c.journal()
	for _, s := range all {
		if s.deleted || !chosen(s.entry.ID) {
			continue
		}
		if err := s.move(ctx, src, o, to, j); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			j.add(moved{Block: s.entry.ID.String(), From: msTime(s.entry.MinTime), To: msTime(s.entry.MaxTime), Bytes: s.entry.Size}, "", err)
		}
	}
	return j.close()
}

// move brings one block to a sink, and tells of what it has become.
func (s *stocked) move(ctx context.Context, src bucket.Bucket, o *outside, to sink, j *journal) error {
	if result, err := to.begin(ctx, s.entry); err != nil || result != "" {
		if err == nil {
			j.add(moved{Block: s.entry.ID.String(), From: msTime(s.entry.MinTime), To: msTime(s.entry.MaxTime), Bytes: s.entry.Size}, result, nil)
		}
		return err
	}
	temp, err := os.MkdirTemp(to.temp(), "hearth-blocks-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }() // it is named as what can be removed
	dir := filepath.Join(temp, s.entry.ID.String())
	if err := block.Fetch(ctx, src, s.home, s.entry.ID, dir); err != nil {
		return err
	}
	pieces, err := plain(ctx, dir, filepath.Join(temp, "pieces"), o, s.tenant)
	if err != nil {
		return err
	}
	for _, piece := range pieces {
		meta, err := block.ReadMeta(piece)
		if err != nil {
			return err
		}
		result, err := to.take(ctx, piece, meta)
		if err != nil {
			return err
		}
		j.add(movedOf(meta, s.entry.Size/int64(len(pieces))), result, nil)
	}
	return nil
}

// target is a tenant's home in a bucket, as a sink.
type target struct {
	bucketFlags
	tenant string
	dry    bool
	bucket bucket.Bucket
}

func (t *target) check(from *place) error {
	if _, err := tenant.ParseID(t.tenant); err != nil {
		return fmt.Errorf("%w: -to-tenant: %w", errUsage, err)
	}
	if from.pool {
		return fmt.Errorf("%w: blocks of the pool are copied for each tenant, with -tenant", errUsage)
	}
	if t.tenant == from.tenant && t.source.File == "" && len(t.source.Set) == 0 {
		return fmt.Errorf("%w: that is where they are; want -to-tenant, -to-config or -to-set", errUsage)
	}
	return nil
}

func (t *target) home() bucket.Key { return bucket.TenantHome(t.tenant) }
func (t *target) temp() string     { return "" }

func (t *target) begin(ctx context.Context, entry bucket.IndexBlock) (string, error) {
	there, err := t.has(ctx, entry.ID, entry.MinTime, entry.MaxTime)
	switch {
	case err != nil:
		return "", err
	case there:
		return resultThere, nil
	case t.dry:
		return resultWould, nil
	default:
		return "", nil
	}
}

func (t *target) has(ctx context.Context, id ulid.ULID, minT, maxT int64) (bool, error) {
	x, _, err := bucket.ReadIndex(ctx, t.bucket, t.home())
	if err != nil {
		return false, err
	}
	return bucket.HasBlock(ctx, t.bucket, t.home(), x, id, minT, maxT-1)
}

func (t *target) take(ctx context.Context, dir string, meta *bucket.Meta) (string, error) {
	there, err := t.has(ctx, meta.ULID, meta.MinTime, meta.MaxTime)
	if err != nil {
		return "", err
	}
	if there {
		return resultThere, nil
	}
	bare(meta)
	if err := block.WriteMeta(dir, meta); err != nil {
		return "", err
	}
	if err := bucket.UploadBlock(ctx, t.bucket, t.home(), dir); err != nil {
		return "", err
	}
	return resultMoved, bucket.NoteDue(ctx, t.bucket, t.tenant, time.Now(), ulid.Make().String())
}

// bare takes from a block's meta.json what counts where it came from only. Its
// sources are what tells later that it is there, wherever it was compacted to.
func bare(meta *bucket.Meta) {
	meta.Thanos = bucket.ThanosMeta{Version: 1, Labels: map[string]string{}, Source: "hearth-blocks"}
	meta.Compaction.Level, meta.Compaction.Parents, meta.Compaction.Sources = 1, nil, []ulid.ULID{meta.ULID}
}

// folder is a folder as a sink.
type folder struct{ dir string }

// temp is where what is finished is renamed from, so it is on the same disk.
func (f *folder) temp() string { return f.dir }

func (f *folder) begin(_ context.Context, entry bucket.IndexBlock) (string, error) {
	return f.has(entry.ID)
}

func (f *folder) has(id ulid.ULID) (string, error) {
	_, err := os.Stat(filepath.Join(f.dir, id.String()))
	switch {
	case err == nil:
		return resultThere, nil
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	default:
		return "", err
	}
}

func (f *folder) take(_ context.Context, dir string, meta *bucket.Meta) (string, error) {
	if result, err := f.has(meta.ULID); err != nil || result != "" {
		return result, err
	}
	bare(meta)
	if err := block.WriteMeta(dir, meta); err != nil {
		return "", err
	}
	return resultMoved, os.Rename(dir, filepath.Join(f.dir, meta.ULID.String()))
}
