package buckettest

import (
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// Weight is what the series with one value of a label have in a block.
type Weight struct {
	Series int64
	Chunks int64 // bytes, as they are on disk
}

// WeighChunks counts the series of a block and the bytes of their chunks, one
// by one, by the value that a label has in them.
func WeighChunks(t testing.TB, b *tsdb.Block, label string) map[string]Weight {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	index, err := b.Index()
	must(err)
	defer func() { must(index.Close()) }()
	data, err := b.Chunks()
	must(err)
	defer func() { must(data.Close()) }()
	out := map[string]Weight{}
	all := tsdb.AllSortedPostings(t.Context(), index)
	for all.Next() {
		var ls labels.ScratchBuilder
		var metas []chunks.Meta
		must(index.Series(all.At(), &ls, &metas))
		value := strings.Clone(ls.Labels().Get(label))
		w := out[value]
		w.Series++
		for _, m := range metas {
			chunk, _, err := data.ChunkOrIterable(m)
			must(err)
			w.Chunks += onDisk(len(chunk.Bytes()))
		}
		out[value] = w
	}
	must(all.Err())
	return out
}

// onDisk is the size of a chunk with its length before it, a varint, its
// encoding, and its checksum behind it.
func onDisk(size int) int64 {
	length := 1
	for n := size; n >= 0x80; n >>= 7 {
		length++
	}
	return int64(length + 1 + size + 4)
}
