package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
)

// verdict is what the check of a block has found.
type verdict struct {
	Block   string `json:"block"`
	Home    string `json:"home"`
	Series  uint64 `json:"series"`
	Samples uint64 `json:"samples"`
	Damage  string `json:"damage,omitempty"`
}

// blocksVerify reads all of some blocks, in a bucket or in folders.
func blocksVerify(c *caller, args []string) error {
	var p place
	fs := c.blocksFlags("blocks verify -tenant <id> [<block>...], or hearth blocks verify <folder>...")
	p.add(fs)
	names, err := c.parseAny(fs, args)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	var found []verdict
	if p.tenant == "" && !p.pool && !p.root {
		if len(names) == 0 {
			return fmt.Errorf("%w: want one of -tenant, -pool and -root, or folders", errUsage)
		}
		found, err = verifyFolders(ctx, names)
	} else {
		found, err = p.verify(ctx, names)
	}
	if err != nil {
		return err
	}
	return c.tellVerdicts(found)
}

func verifyFolders(ctx context.Context, folders []string) (found []verdict, err error) {
	dirs, err := blockFolders(folders)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		v, err := judge(ctx, dir, func(labels.Labels) error { return nil })
		if err != nil {
			return nil, err
		}
		v.Block, v.Home = filepath.Base(dir), filepath.Dir(dir)
		found = append(found, v)
	}
	return found, nil
}

func (p *place) verify(ctx context.Context, names []string) (found []verdict, err error) {
	chosen, err := selectBlocks(names)
	if err != nil {
		return nil, err
	}
	b, all, done, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	for _, s := range all {
		if s.deleted || !chosen(s.entry.ID) {
			continue
		}
		v, err := s.verify(ctx, b)
		if err != nil {
			return nil, err
		}
		v.Block, v.Home = s.entry.ID.String(), homeName(s.home)
		found = append(found, v)
	}
	if len(names) > 0 && len(found) != len(names) {
		return nil, fmt.Errorf("%d of the blocks that were named are there, and not marked for deletion", len(found))
	}
	return found, nil
}

// verify fetches a block and reads all of it.
func (s *stocked) verify(ctx context.Context, b bucket.Bucket) (verdict, error) {
	dir, err := os.MkdirTemp("", "hearth-verify-")
	if err != nil {
		return verdict{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is in the system's folder for such
	err = block.Fetch(ctx, b, s.home, s.entry.ID, dir)
	if errors.Is(err, block.ErrIncomplete) || errors.Is(err, bucket.ErrNotFound) {
		return verdict{Damage: err.Error()}, nil
	}
	if err != nil {
		return verdict{}, err
	}
	accept := func(ls labels.Labels) error {
		if ls.Has(bucket.PoolLabel) {
			return errors.New("a series has the hidden label of the pool")
		}
		return nil
	}
	var tenants map[string]int64
	if s.home == bucket.PoolHome {
		if tenants, err = bucket.ReadTenants(ctx, b, s.entry.ID); err != nil {
			return verdict{}, err
		}
		accept = func(ls labels.Labels) error {
			id := ls.Get(bucket.PoolLabel)
			if _, ok := tenants[id]; !ok {
				return fmt.Errorf("a series is of the tenant %q, which %s does not list", id, bucket.TenantsFile)
			}
			return nil
		}
	}
	v, err := judge(ctx, dir, accept)
	if err == nil && v.Damage == "" && s.home == bucket.PoolHome {
		v.Damage, err = weigh(ctx, dir, tenants)
	}
	return v, err
}

// weigh holds the bytes that each tenant is said to have of a pooled block
// against the block. Lists of before say nothing of bytes.
func weigh(ctx context.Context, dir string, said map[string]int64) (damage string, err error) {
	b, err := tsdb.OpenBlock(slog.New(slog.DiscardHandler), dir, nil, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = b.Close() }() // it was only read
	sizes, err := bucket.TenantSizes(ctx, b)
	if err != nil {
		return "", err
	}
	for _, id := range slices.Sorted(maps.Keys(said)) {
		if said[id] != 0 && said[id] != sizes[id] {
			return fmt.Sprintf("%s says that the tenant %q has %d bytes of it, which has %d", bucket.TenantsFile, id, said[id], sizes[id]), nil
		}
	}
	return "", nil
}

// judge reads all of a block on local disk, and holds it against its meta.json.
func judge(ctx context.Context, dir string, accept func(labels.Labels) error) (verdict, error) {
	st, err := block.Verify(ctx, dir, accept)
	v := verdict{Series: st.NumSeries, Samples: st.NumSamples}
	switch {
	case ctx.Err() != nil:
		return v, ctx.Err()
	case err != nil && block.OfMachine(err) && !errors.Is(err, os.ErrNotExist):
		return v, err
	case err != nil:
		v.Damage = err.Error()
		return v, nil
	}
	meta, err := block.ReadMeta(dir)
	if err != nil {
		return v, err
	}
	if said := meta.Stats; said != (tsdb.BlockStats{}) && (said.NumSeries != st.NumSeries || said.NumSamples != st.NumSamples) {
		v.Damage = fmt.Sprintf("%s says that it has %d series with %d samples", bucket.MetaFile, said.NumSeries, said.NumSamples)
	}
	return v, nil
}

func (c *caller) tellVerdicts(found []verdict) (err error) {
	if c.output == "json" {
		err = json.NewEncoder(c.stdout).Encode(found)
	} else {
		err = c.table("BLOCK HOME SERIES SAMPLES RESULT", func(row func(...any)) {
			for _, v := range found {
				result := "sound"
				if v.Damage != "" {
					result = "DAMAGED: " + v.Damage
				}
				row(v.Block, v.Home, v.Series, v.Samples, result)
			}
		})
	}
	damaged := 0
	for _, v := range found {
		if v.Damage != "" {
			damaged++
		}
	}
	if err == nil && damaged > 0 {
		err = fmt.Errorf("%d of %d blocks are damaged", damaged, len(found))
	}
	return err
}

// blockFolders finds the blocks in folders: each is one, or has some in it, as
// Prometheus' data folder has.
func blockFolders(folders []string) (dirs []string, err error) {
	for _, folder := range folders {
		if _, err := os.Stat(filepath.Join(folder, bucket.MetaFile)); err == nil {
			dirs = append(dirs, folder)
			continue
		}
		entries, err := os.ReadDir(folder)
		if err != nil {
			return nil, err
		}
		n := len(dirs)
		for _, e := range entries {
			if _, ok := bucket.ParseBlockID(e.Name()); ok && e.IsDir() {
				dirs = append(dirs, filepath.Join(folder, e.Name()))
			}
		}
		if len(dirs) == n {
			return nil, fmt.Errorf("there is no block in %s", folder)
		}
	}
	return dirs, nil
}
