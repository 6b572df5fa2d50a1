package compactor

import (
	"context"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// checkBlock walks a block on local disk: series in order and none twice, each
// series' chunks in order and within the block's time, chunks that can be read,
// checksums included. Whatever a compaction would silently leave out is an
// error here. Returned are the series and samples that it has.
func checkBlock(ctx context.Context, b *tsdb.Block, readChunks bool) (series, samples uint64, err error) {
	index, err := b.Index()
	if err != nil {
		return 0, 0, fmt.Errorf("open index: %w", err)
	}
	defer index.Close()
	chunkr, err := b.Chunks()
	if err != nil {
		return 0, 0, fmt.Errorf("open chunks: %w", err)
	}
	defer func() { _ = chunkr.Close() }() // it was only read

	var builder labels.ScratchBuilder
	var metas []chunks.Meta
	var last labels.Labels
	all := tsdb.AllSortedPostings(ctx, index)
	for all.Next() {
		if series++; series%1024 == 0 && ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
		if err := index.Series(all.At(), &builder, &metas); err != nil {
			return 0, 0, fmt.Errorf("read series: %w", err)
		}
		own := builder.Labels()
		if series > 1 && labels.Compare(last, own) >= 0 {
			return 0, 0, fmt.Errorf("series %s comes after %s", own, last)
		}
		last = own
		if err := checkTimes(b.Meta(), metas); err != nil {
			return 0, 0, fmt.Errorf("series %s: %w", own, err)
		}
		if !readChunks {
			continue
		}
		n, err := readAll(chunkr, metas)
		if err != nil {
			return 0, 0, fmt.Errorf("series %s: %w", own, err)
		}
		samples += n
	}
	return series, samples, all.Err()
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

func readAll(r tsdb.ChunkReader, metas []chunks.Meta) (samples uint64, err error) {
	for _, m := range metas {
		chunk, iterable, err := r.ChunkOrIterable(m)
		if err != nil {
			return 0, fmt.Errorf("read chunk: %w", err)
		}
		if iterable != nil {
			return 0, fmt.Errorf("read chunk: it is not whole")
		}
		samples += uint64(chunk.NumSamples())
	}
	return samples, nil
}
