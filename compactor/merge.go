package compactor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
	"github.com/hearth-metrics/hearth/tenant"
)

// source is in meta.json of what compactions make. A block that has it and is
// in no index was never committed, or is deleted: nobody misses it.
const source = "hearth-compactor"

// jobTimeout bounds one compaction, whatever the bucket does.
const jobTimeout = 6 * time.Hour

// run carries out a job, from fetching its blocks to the commit.
func (c *Compactor) run(ctx context.Context, r *round, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	var keep func(tenant.ID) bool
	if j.home == bucket.PoolHome {
		end := j.end()
		keep = func(id tenant.ID) bool { return c.keeps(r, id, end) }
		some, err := c.anyKept(ctx, j, keep)
		if err != nil {
			return err
		}
		if !some {
			return c.commit(ctx, j, nil)
		}
	}
	if err := os.MkdirAll(c.dir, 0o777); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(c.dir, "job-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // else the next start does
	sources, err := c.fetch(ctx, j, dir)
	if err != nil {
		return err
	}
	outputs, err := compact(ctx, j, sources, filepath.Join(dir, "out"), keep)
	if err != nil {
		return err
	}
	var entries []bucket.IndexBlock
	for _, out := range outputs {
		entry, err := bucket.StoreBlock(ctx, c.bucket, j.home, out)
		if err != nil {
			return err
		}
		entries = append(entries, entry)
	}
	return c.commit(ctx, j, entries)
}

// compact merges blocks on local disk and returns the folders of the outputs,
// below out. A part of which there is nothing has none.
func compact(ctx context.Context, j *job, sources []string, out string, keep func(tenant.ID) bool) (outputs []string, err error) {
	blocks := make([]*tsdb.Block, 0, len(sources))
	defer func() {
		for _, b := range blocks {
			err = errors.Join(err, b.Close())
		}
	}()
	quiet := slog.New(slog.DiscardHandler)
	for i, dir := range sources {
		b, err := tsdb.OpenBlock(quiet, dir, nil, nil)
		if err != nil {
			return nil, fault(j.blocks[i].ID, fmt.Errorf("open: %w", err))
		}
		blocks = append(blocks, b)
		if err := block.CheckIndex(ctx, b); err != nil {
			return nil, fault(j.blocks[i].ID, err)
		}
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return nil, err
	}
	lc, err := tsdb.NewLeveledCompactorWithOptions(ctx, nil, quiet, []int64{j.maxT - j.minT}, nil, tsdb.LeveledCompactorOptions{EnableOverlappingCompaction: true})
	if err != nil {
		return nil, err
	}
	for _, p := range j.outputs(keep) {
		ids, err := lc.CompactWithBlockPopulator(out, sources, blocks, &p)
		if err != nil {
			return nil, blame(ctx, blocks, err)
		}
		for _, id := range ids {
			dir := filepath.Join(out, id.String())
			if err := finish(ctx, dir, &p); err != nil {
				return nil, fmt.Errorf("check what was written: %w", err)
			}
			outputs = append(outputs, dir)
		}
	}
	return outputs, nil
}

// outputs is the parts that a job makes.
func (j *job) outputs(keep func(tenant.ID) bool) []part {
	if !j.split {
		return []part{{number: j.part, count: j.parts, keep: keep}}
	}
	parts := make([]part, j.parts)
	for i := range parts {
		parts[i] = part{number: i, count: j.parts, split: true, keep: keep}
	}
	return parts
}

// fault is a failure over one block: the block's own, or this machine's.
func fault(id ulid.ULID, err error) error {
	if block.OfMachine(err) {
		return err
	}
	return &badBlock{id, err}
}

// blame finds the block that has made a compaction fail, if it was one.
func blame(ctx context.Context, blocks []*tsdb.Block, failure error) error {
	if block.OfMachine(failure) {
		return failure
	}
	for _, b := range blocks {
		if _, _, err := block.Check(ctx, b); err != nil {
			return fault(b.Meta().ULID, err)
		}
	}
	return failure
}

// finish checks a block that was just written, and writes down which part it
// is and, in the pool, whose series are in it.
func finish(ctx context.Context, dir string, p *part) (err error) {
	b, err := tsdb.OpenBlock(slog.New(slog.DiscardHandler), dir, nil, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	series, samples, err := block.Check(ctx, b)
	if err != nil {
		return err
	}
	if want := b.Meta().Stats; series != want.NumSeries || samples != want.NumSamples {
		return fmt.Errorf("%d series with %d samples were written, %d with %d are there", want.NumSeries, want.NumSamples, series, samples)
	}
	if p.keep != nil {
		if err := listTenants(ctx, b, dir); err != nil {
			return err
		}
	}
	meta, err := readMeta(dir)
	if err != nil {
		return err
	}
	meta.Thanos.Source = source
	if p.count > 1 {
		meta.Thanos.Labels = map[string]string{bucket.ShardLabel: bucket.ShardID(p.number, p.count)}
	}
	return writeJSON(filepath.Join(dir, bucket.MetaFile), meta)
}

func listTenants(ctx context.Context, b *tsdb.Block, dir string) error {
	sizes, err := bucket.TenantSizes(ctx, b)
	if err != nil {
		return fmt.Errorf("list tenants: %w", err)
	}
	return writeJSON(filepath.Join(dir, bucket.TenantsFile), sizes)
}

func readMeta(dir string) (*bucket.Meta, error) {
	content, err := os.ReadFile(filepath.Join(dir, bucket.MetaFile))
	if err != nil {
		return nil, err
	}
	meta := &bucket.Meta{}
	return meta, json.Unmarshal(content, meta)
}

// writeJSON writes a file of a folder that is thrown away after a crash.
func writeJSON(path string, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o666)
}
