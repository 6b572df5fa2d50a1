package ingester

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/grafana/dskit/services"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// Querier opens all that the ingester holds of a tenant between mint and maxt
// (ms, inclusive): heads and the blocks still on local disk. held names those
// blocks, so that the caller need not read them from the bucket too. The
// caller closes the querier.
func (i *Ingester) Querier(ctx context.Context, id tenant.ID, mint, maxt int64) (storage.Querier, []ulid.ULID, error) {
	qs, held, done, err := look(ctx, i, id, func(db *tsdb.DB, pooled bool) (storage.Querier, error) {
		q, err := db.Querier(mint, maxt)
		if err == nil && pooled {
			q = bucket.PoolQuerier(q, string(id))
		}
		return q, err
	})
	if err != nil {
		return nil, nil, err
	}
	q := qs[0]
	if len(qs) > 1 {
		q = storage.NewMergeQuerier(qs, nil, storage.ChainedSeriesMerge)
	}
	return &querier{q, done}, held, nil
}

// querier gives back the heads when it is closed.
type querier struct {
	storage.Querier

	done func()
}

// Close implements storage.Querier.
func (q *querier) Close() error {
	defer q.done()
	return q.Querier.Close()
}

// ChunkQuerier is Querier for chunks.
func (i *Ingester) ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64) (storage.ChunkQuerier, []ulid.ULID, error) {
	qs, held, done, err := look(ctx, i, id, func(db *tsdb.DB, pooled bool) (storage.ChunkQuerier, error) {
		q, err := db.ChunkQuerier(mint, maxt)
		if err == nil && pooled {
			q = bucket.PoolChunkQuerier(q, string(id))
		}
		return q, err
	})
	if err != nil {
		return nil, nil, err
	}
	q := qs[0]
	if len(qs) > 1 {
		q = storage.NewMergeChunkQuerier(qs, nil, storage.NewCompactingChunkSeriesMerger(storage.ChainedSeriesMerge))
	}
	return &chunkQuerier{q, done}, held, nil
}

// chunkQuerier gives back the heads when it is closed.
type chunkQuerier struct {
	storage.ChunkQuerier

	done func()
}

// Close implements storage.ChunkQuerier.
func (q *chunkQuerier) Close() error {
	defer q.done()
	return q.ChunkQuerier.Close()
}

// look opens every head that may have data of a tenant. The pool is always
// looked at: a tenant's older blocks may be there. What is opened is closed
// before done is called, once.
func look[Q interface{ Close() error }](ctx context.Context, i *Ingester, id tenant.ID, open func(db *tsdb.DB, pooled bool) (Q, error)) (qs []Q, held []ulid.ULID, done func(), err error) {
	if i.State() != services.Running {
		return nil, nil, nil, errStopping()
	}
	var used []func()
	done = sync.OnceFunc(func() {
		for _, f := range used {
			f()
		}
	})
	for _, h := range i.headsOf(id) {
		db, release, err := h.use(ctx)
		if err == nil {
			used = append(used, release)
			// A block that is there before and after the querier is opened is
			// read by it; one that comes or goes meanwhile is not claimed.
			before := db.Blocks()
			var q Q
			if q, err = open(db, h.pooled()); err == nil {
				qs = append(qs, q)
				held = append(held, inBoth(before, db.Blocks())...)
				continue
			}
		}
		for _, q := range qs {
			err = errors.Join(err, q.Close())
		}
		done()
		return nil, nil, nil, err
	}
	return qs, held, done, nil
}

func inBoth(a, b []*tsdb.Block) (out []ulid.ULID) {
	for _, x := range a {
		if slices.Contains(b, x) {
			out = append(out, x.Meta().ULID)
		}
	}
	return out
}

// ExemplarQuerier reads a tenant's exemplars. They are kept in memory only.
func (i *Ingester) ExemplarQuerier(ctx context.Context, id tenant.ID) (storage.ExemplarQuerier, error) {
	if i.State() != services.Running {
		return nil, errStopping()
	}
	q := &exemplarQuerier{id: id}
	for _, h := range i.headsOf(id) {
		db, done, err := h.use(ctx)
		if err != nil {
			return nil, err
		}
		found, err := db.ExemplarQuerier(ctx)
		done() // exemplars are in memory, whatever becomes of the files
		if err != nil {
			return nil, err
		}
		if h.pooled() {
			q.pool = found
		} else {
			q.own = found
		}
	}
	return q, nil
}

type exemplarQuerier struct {
	id   tenant.ID
	pool storage.ExemplarQuerier
	own  storage.ExemplarQuerier // nil: the tenant has no head of its own
}

// Select returns the exemplars of the series that match all matchers of at
// least one set, sorted by series.
func (q *exemplarQuerier) Select(start, end int64, sets ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	pooled := make([][]*labels.Matcher, 0, len(sets))
	for _, ms := range sets {
		if inPool, some := bucket.PoolMatchers(string(q.id), ms); some {
			pooled = append(pooled, inPool)
		}
	}
	out, err := q.pool.Select(start, end, pooled...)
	if err != nil {
		return nil, err
	}
	for n := range out {
		_, out[n].SeriesLabels = bucket.SplitPoolLabels(out[n].SeriesLabels)
	}
	if q.own == nil {
		return out, nil
	}
	more, err := q.own.Select(start, end, sets...)
	if err != nil {
		return nil, err
	}
	return mergeExemplars(out, more), nil
}

// mergeExemplars joins two results, one behind the other in time, by series.
func mergeExemplars(older, newer []exemplar.QueryResult) []exemplar.QueryResult {
	at := map[uint64]int{}
	for n, r := range older {
		at[r.SeriesLabels.Hash()] = n
	}
	for _, r := range newer {
		n, ok := at[r.SeriesLabels.Hash()]
		if ok && labels.Equal(older[n].SeriesLabels, r.SeriesLabels) {
			older[n].Exemplars = append(older[n].Exemplars, r.Exemplars...)
			continue
		}
		older = append(older, r)
	}
	slices.SortFunc(older, func(a, b exemplar.QueryResult) int { return labels.Compare(a.SeriesLabels, b.SeriesLabels) })
	return older
}

// Metadata returns the type, unit and help of a tenant's metrics, of one if
// metric is not empty; limits of 0 or less are none.
func (i *Ingester) Metadata(_ context.Context, id tenant.ID, metric string, limit, limitPerMetric int) (map[string][]metadata.Metadata, error) {
	m := i.knownMember(id)
	if m == nil {
		return map[string][]metadata.Metadata{}, nil
	}
	return m.meta.get(metric, limit, limitPerMetric), nil
}
