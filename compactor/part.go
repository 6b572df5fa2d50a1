package compactor

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// part is which of the blocks' series go into one output. It is a
// tsdb.BlockPopulator.
type part struct {
	number, count int  // of the output
	split         bool // the sources have series of other parts too

	keep func(tenant.ID) bool // pooled blocks only
}

// PopulateBlock implements tsdb.BlockPopulator: Prometheus' own, over views of
// the blocks that show the part's series alone, with short chunks joined.
//
//nolint:revive // the arguments are the interface's
func (p *part) PopulateBlock(ctx context.Context, metrics *tsdb.CompactorMetrics, logger *slog.Logger, pool chunkenc.Pool, merge storage.VerticalChunkSeriesMergeFunc, blocks []tsdb.BlockReader, meta *tsdb.BlockMeta, indexw tsdb.IndexWriter, chunkw tsdb.ChunkWriter, all tsdb.IndexReaderPostingsFunc) error {
	if p.split || p.keep != nil {
		views := make([]tsdb.BlockReader, len(blocks))
		for i, b := range blocks {
			views[i] = partBlock{b, ctx, p}
		}
		blocks, all = views, p.postings
	}
	j := &joiner{}
	err := tsdb.DefaultBlockPopulator{}.PopulateBlock(ctx, metrics, logger, pool, merge, blocks, meta, joinedIndex{indexw, j}, joinedChunks{chunkw, j}, all)
	meta.Stats.NumChunks = j.count
	return err
}

// postings are the part's series of a block, in order of labels: in a block
// that is the order of references.
func (p *part) postings(ctx context.Context, r tsdb.IndexReader) index.Postings {
	if p.keep == nil {
		return r.ShardedPostings(tsdb.AllSortedPostings(ctx, r), uint64(p.number), uint64(p.count))
	}
	return r.PostingsForLabelMatching(ctx, bucket.PoolLabel, func(id string) bool {
		return p.keep(tenant.ID(id)) && bucket.PoolShard(id, p.count) == p.number
	})
}

// partBlock is a block as a part sees it.
type partBlock struct {
	tsdb.BlockReader

	ctx  context.Context //nolint:containedctx // of the one call of PopulateBlock, whose interface has no place for it
	part *part
}

// Index implements tsdb.BlockReader. Of the symbols it shows those of the
// part's series only: otherwise each part would have all of them.
func (b partBlock) Index() (tsdb.IndexReader, error) {
	r, err := b.BlockReader.Index()
	if err != nil {
		return nil, err
	}
	symbols, err := symbolsOf(r, b.part.postings(b.ctx, r))
	if err != nil {
		return nil, fmt.Errorf("read symbols: %w", err)
	}
	return partIndex{r, symbols}, nil
}

type partIndex struct {
	tsdb.IndexReader

	symbols []string
}

// Symbols implements tsdb.IndexReader.
func (x partIndex) Symbols() index.StringIter { return index.NewStringListIter(x.symbols) }

func symbolsOf(r tsdb.IndexReader, series index.Postings) ([]string, error) {
	seen := map[string]struct{}{}
	add := func(s string) {
		if _, ok := seen[s]; !ok {
			seen[strings.Clone(s)] = struct{}{} // it is part of all the series' labels
		}
	}
	var b labels.ScratchBuilder
	for series.Next() {
		if err := r.Series(series.At(), &b, nil); err != nil {
			return nil, err
		}
		b.Labels().Range(func(l labels.Label) {
			add(l.Name)
			add(l.Value)
		})
	}
	return slices.Sorted(maps.Keys(seen)), series.Err()
}
