package storegateway

import (
	"context"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// restKey is where a context carries the matchers of a Select down to the
// lookahead.
type restKey struct{}

// withRest carries a tenant's matchers past bucket.PoolQuerier, which tests
// some of them on the series that come back from here. Tested here too, no
// chunks are fetched for series that do not match.
func withRest(ctx context.Context, ms []*labels.Matcher) context.Context {
	var rest []*labels.Matcher
	for _, m := range ms {
		if m.Name != bucket.PoolLabel && (m.Type != labels.MatchEqual || m.Value == "") {
			rest = append(rest, m)
		}
	}
	if rest == nil {
		return ctx
	}
	return context.WithValue(ctx, restKey{}, rest)
}

// lacks says that the block has surely no series of a tenant of the pool.
func (b *block) lacks(ctx context.Context, id tenant.ID) bool {
	ir, err := b.index.Index()
	if err != nil {
		return false
	}
	defer ir.Close()
	p, err := ir.Postings(ctx, bucket.PoolLabel, string(id))
	return err == nil && !p.Next() && p.Err() == nil
}

// pooledQuerier is a bucket.PoolQuerier over blocks of this package.
type pooledQuerier struct{ storage.Querier }

func (q pooledQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(withRest(ctx, ms), sorted, hints, ms...)
}

// pooledChunkQuerier is a bucket.PoolChunkQuerier over blocks of this package.
type pooledChunkQuerier struct{ storage.ChunkQuerier }

func (q pooledChunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	return q.ChunkQuerier.Select(withRest(ctx, ms), sorted, hints, ms...)
}
