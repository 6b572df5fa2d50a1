// Package block is GRAIN: what is inside a block, on local disk.
//
// In comes the folder of a Prometheus block, fetched from a bucket (fetch.go)
// or brought by somebody. Out goes what is wrong with it (check.go, and
// verify.go for blocks that nobody has reason to trust), or the same samples
// in other blocks: in pieces of a day, of one tenant of the pool, with more
// labels (pieces.go). Memory is bounded by the index of one block, disk by
// twice a block.
package block

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

var quiet = slog.New(slog.DiscardHandler)

// CheckIndex walks the index of a block: series in order and none twice, each
// series' chunks in order and within the block's time.
func CheckIndex(ctx context.Context, b *tsdb.Block) error {
	_, err := walk(ctx, b, func(labels.Labels, []chunks.Meta) error { return nil })
	return err
}

// Check is CheckIndex, and reads all chunks, checksums included. Whatever a
// compaction would silently leave out is an error here. Returned are the series
// and samples that the block has.
func Check(ctx context.Context, b *tsdb.Block) (series, samples uint64, err error) {
	chunkr, err := b.Chunks()
	if err != nil {
		return 0, 0, fmt.Errorf("open chunks: %w", err)
	}
	defer func() { _ = chunkr.Close() }() // it was only read
	series, err = walk(ctx, b, func(_ labels.Labels, metas []chunks.Meta) error {
		for _, m := range metas {
			chunk, iterable, err := chunkr.ChunkOrIterable(m)
			if err != nil {
				return fmt.Errorf("read chunk: %w", err)
			}
			if iterable != nil {
				return errors.New("read chunk: it is not whole")
			}
			samples += uint64(chunk.NumSamples())
		}
		return nil
	})
	return series, samples, err
}

// walk visits all series of a block, in order, after their place and times were
// checked. What visit gets is valid until it returns.
func walk(ctx context.Context, b *tsdb.Block, visit func(labels.Labels, []chunks.Meta) error) (series uint64, err error) {
	index, err := b.Index()
	if err != nil {
		return 0, fmt.Errorf("open index: %w", err)
	}
	defer index.Close()
	var builder labels.ScratchBuilder
	var metas []chunks.Meta
	var last labels.Labels
	all := tsdb.AllSortedPostings(ctx, index)
	for all.Next() {
		if series++; series%1024 == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err := index.Series(all.At(), &builder, &metas); err != nil {
			return 0, fmt.Errorf("read series: %w", err)
		}
		own := builder.Labels()
		if series > 1 && labels.Compare(last, own) >= 0 {
			return 0, fmt.Errorf("series %s comes after %s", own, last)
		}
		last = own
		if err := checkTimes(b.Meta(), metas); err != nil {
			return 0, fmt.Errorf("series %s: %w", own, err)
		}
		if err := visit(own, metas); err != nil {
			return 0, fmt.Errorf("series %s: %w", own, err)
		}
	}
	return series, all.Err()
}

func checkTimes(block tsdb.BlockMeta, metas []chunks.Meta) error {
	for i, m := range metas {
		switch {
		case m.MinTime > m.MaxTime, i > 0 && m.MinTime <= metas[i-1].MaxTime:
			return fmt.Errorf("chunk from %d to %d is out of order", m.MinTime, m.MaxTime)
		case m.MinTime < block.MinTime, m.MaxTime >= block.MaxTime:
			return fmt.Errorf("chunk from %d to %d is outside of the block's %d to %d", m.MinTime, m.MaxTime, block.MinTime, block.MaxTime)
		}
	}
	return nil
}
