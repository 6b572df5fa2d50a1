package bucket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// TenantsFile lies beside the meta.json of a pooled block and says whose series
// are in it: a JSON object from each tenant to its bytes, as TenantSizes has
// them.
const TenantsFile = "tenants.json"

// TenantSizes says how many bytes of a pooled block on local disk each tenant
// has: its chunks, and a part of the index by its number of series. Together
// they have the bytes of all chunk segments and the index.
//
// Series are in order of labels, of which the tenant is the first, and chunks
// are in order of series. So what lies between the first chunk of a tenant and
// that of the next one is the tenant's, and no chunk has to be read.
func TenantSizes(ctx context.Context, b *tsdb.Block) (map[string]int64, error) {
	files, err := localFiles(b.Dir())
	if err != nil {
		return nil, err
	}
	entry := newIndexBlock(&Meta{}, files, time.Time{})
	index, err := b.Index()
	if err != nil {
		return nil, err
	}
	defer index.Close()
	names, err := index.SortedLabelValues(ctx, PoolLabel, nil)
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	begins := make([]int64, len(names)) // of each tenant, in all of the bytes
	before, series := int64(0), int64(b.Meta().Stats.NumSeries)
	for i, name := range names {
		n, first, err := seriesOf(ctx, index, name)
		if err != nil {
			return nil, fmt.Errorf("find series of tenant %s: %w", name, err)
		}
		if i > 0 { // what is before its first chunk is a file's head
			begins[i] = offset(first, entry.SegmentSizes) + entry.IndexSize*before/series
		}
		before += n
	}
	end := entry.IndexSize + offset(chunks.NewBlockChunkRef(uint64(len(entry.SegmentSizes)), 0), entry.SegmentSizes)
	sizes := make(map[string]int64, len(names))
	for i := len(names) - 1; i >= 0; i-- {
		sizes[strings.Clone(names[i])] = end - begins[i] // the name is part of the index
		end = begins[i]
	}
	return sizes, nil
}

// seriesOf counts a tenant's series in a pooled block and finds its first
// chunk.
func seriesOf(ctx context.Context, index tsdb.IndexReader, name string) (n int64, first chunks.BlockChunkRef, err error) {
	p, err := index.Postings(ctx, PoolLabel, name)
	if err != nil {
		return 0, 0, err
	}
	var b labels.ScratchBuilder
	var metas []chunks.Meta
	for ; p.Next(); n++ {
		if n > 0 {
			continue
		}
		if err := index.Series(p.At(), &b, &metas); err != nil {
			return 0, 0, err
		}
		if len(metas) == 0 {
			return 0, 0, errors.New("a series has no chunks")
		}
		first = chunks.BlockChunkRef(metas[0].Ref)
	}
	return n, first, p.Err()
}

// offset is where a chunk would be if all segments were one file.
func offset(at chunks.BlockChunkRef, segments []int64) int64 {
	segment, start := at.Unpack()
	n := int64(start)
	for _, size := range segments[:segment] {
		n += size
	}
	return n
}

// ReadTenants returns the tenants of a pooled block with their bytes; nil where
// the block has no such list, as when it was deleted.
func ReadTenants(ctx context.Context, b Bucket, id ulid.ULID) (map[string]int64, error) {
	key := BlockKey(PoolHome, id, TenantsFile)
	content, _, err := ReadAll(ctx, b, key)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read tenants: %w", err)
	}
	sizes, err := parseTenants(content)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", key, err)
	}
	return sizes, nil
}

// parseTenants also takes an array of names, which the file once was: what such
// a block has of whom is not known until it is written again.
// TODO: drop when no block is kept that was written before December 2026.
func parseTenants(content []byte) (sizes map[string]int64, err error) {
	if !bytes.HasPrefix(content, []byte("[")) {
		return sizes, json.Unmarshal(content, &sizes)
	}
	var names []string
	if err := json.Unmarshal(content, &names); err != nil {
		return nil, err
	}
	sizes = make(map[string]int64, len(names))
	for _, name := range names {
		sizes[name] = 0
	}
	return sizes, nil
}
