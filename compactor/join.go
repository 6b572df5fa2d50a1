package compactor

import (
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// A head ends a chunk after 120 samples, so that little is lost in a crash. In a
// block that is a waste: each chunk has its first sample in full, a length, a
// checksum, and an entry in the index. So short chunks become one, as long as
// it does not take much to read one of its samples.
const (
	joinedSamples = 480
	joinedBytes   = 2048
)

// joiner is between a tsdb.BlockPopulator and the files of a block. Chunks of
// histograms stay as they are: where one begins says that a counter was reset.
type joiner struct {
	metas []chunks.Meta // of the series that is being written
	count uint64        // of all series
}

type joinedChunks struct {
	tsdb.ChunkWriter
	*joiner
}

// WriteChunks implements tsdb.ChunkWriter. It is called with all chunks of a
// series, before AddSeries is.
func (w joinedChunks) WriteChunks(all ...chunks.Meta) (err error) {
	if w.metas, err = joinAll(w.metas[:0], all); err != nil {
		return err
	}
	w.count += uint64(len(w.metas))
	return w.ChunkWriter.WriteChunks(w.metas...)
}

type joinedIndex struct {
	tsdb.IndexWriter
	*joiner
}

// AddSeries implements tsdb.IndexWriter.
func (x joinedIndex) AddSeries(ref storage.SeriesRef, ls labels.Labels, _ ...chunks.Meta) error {
	return x.IndexWriter.AddSeries(ref, ls, x.metas...)
}

// joinAll adds the chunks of a series to out, with runs of short ones joined.
func joinAll(out, all []chunks.Meta) ([]chunks.Meta, error) {
	for len(all) > 0 {
		n := runOf(all)
		if n == 1 {
			out = append(out, all[0])
		} else {
			m, err := join(all[:n])
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
		all = all[n:]
	}
	return out, nil
}

// runOf is how many of the first chunks are to be one.
func runOf(all []chunks.Meta) int {
	samples, size := 0, 0
	for i, m := range all {
		if m.Chunk.Encoding() != chunkenc.EncXOR {
			return max(i, 1)
		}
		samples += m.Chunk.NumSamples()
		size += len(m.Chunk.Bytes())
		if samples > joinedSamples || size > joinedBytes {
			return max(i, 1)
		}
	}
	return len(all)
}

func join(run []chunks.Meta) (chunks.Meta, error) {
	c := chunkenc.NewXORChunk()
	app, err := c.Appender()
	if err != nil {
		return chunks.Meta{}, fmt.Errorf("join chunks: %w", err)
	}
	var it chunkenc.Iterator
	for _, m := range run {
		for it = m.Chunk.Iterator(it); it.Next() == chunkenc.ValFloat; {
			t, v := it.At()
			app.Append(0, t, v)
		}
		if err := it.Err(); err != nil {
			return chunks.Meta{}, fmt.Errorf("join chunks: %w", err)
		}
	}
	return chunks.Meta{Chunk: c, MinTime: run[0].MinTime, MaxTime: run[len(run)-1].MaxTime}, nil
}
