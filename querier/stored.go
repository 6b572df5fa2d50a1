package querier

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Gateways is a Stored that is many: it knows which blocks a query needs, finds
// a store gateway for each by the ring, and verifies that each was searched
// (search.go). What a gateway cannot answer another one is asked for.
type Gateways struct {
	list    *Catalogue
	ring    *ring.Ring
	client  func(ring.Member) (wire.StoreServer, error)
	limits  func(tenant.ID) *tenant.Limits
	metrics *gatewayMetrics
}

// NewGateways makes a Stored of the members of a ring.
func NewGateways(list *Catalogue, r *ring.Ring, client func(ring.Member) (wire.StoreServer, error), limits func(tenant.ID) *tenant.Limits) *Gateways {
	return &Gateways{list: list, ring: r, client: client, limits: limits, metrics: newGatewayMetrics(list.reg)}
}

// gatewaysQuerier is one query's view of all gateways.
type gatewaysQuerier struct {
	g     *Gateways
	id    tenant.ID
	span  wire.Span
	skip  []ulid.ULID
	read  atomic.Int64 // bytes of chunks
	asked questions
}

// open finds out whether there is something to read; if not, the querier is nil.
func (g *Gateways) open(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (*gatewaysQuerier, error) {
	n, err := g.list.blocks(ctx, id, mint, maxt, skip, time.Time{})
	if err != nil || n.Len() == 0 {
		return nil, err
	}
	return &gatewaysQuerier{g: g, id: id, span: wire.Span{Tenant: string(id), MinT: mint, MaxT: maxt}, skip: skip}, nil
}

// Querier implements Stored.
func (g *Gateways) Querier(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.Querier, error) {
	q, err := g.open(ctx, id, mint, maxt, skip)
	if err != nil || q == nil {
		return storage.NoopQuerier(), err
	}
	return gatewaysSamples{q}, nil
}

// ChunkQuerier implements Stored.
func (g *Gateways) ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64, skip []ulid.ULID) (storage.ChunkQuerier, error) {
	q, err := g.open(ctx, id, mint, maxt, skip)
	if err != nil || q == nil {
		return storage.NoopChunkedQuerier(), err
	}
	return gatewaysChunks{q}, nil
}

// Close implements storage.LabelQuerier. It ends questions whose answers nobody
// has waited for.
func (q *gatewaysQuerier) Close() error { return q.asked.end() }

// LabelNames implements storage.LabelQuerier.
func (q *gatewaysQuerier) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labels(ctx, "", h, ms)
}

// LabelValues implements storage.LabelQuerier.
func (q *gatewaysQuerier) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labels(ctx, name, h, ms)
}

func (q *gatewaysQuerier) labels(ctx context.Context, name string, h *storage.LabelHints, ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
	req := wire.BlocksLabels{Span: q.span, Matchers: wire.ToMatchers(ms), Name: name}
	if h != nil {
		req.Limit = h.Limit
	}
	answers, err := searchAll(ctx, q, func(ctx context.Context, c wire.StoreServer, blocks wire.Blocks, heard func()) (all []string, searched []ulid.ULID, err error) {
		req := req
		req.Blocks = blocks
		err = c.Labels(ctx, &req, func(f *wire.LabelsFrame) error {
			heard()
			all, searched = append(all, f.Values...), append(searched, f.Searched...)
			return nil
		})
		return all, searched, err
	})
	if err != nil {
		return nil, nil, err
	}
	all := slices.Concat(answers...)
	slices.Sort(all)
	return slices.Compact(all), nil, nil
}

// selected asks for series, each list sorted by labels. whole says that samples
// outside of the hints' times do no harm.
func (q *gatewaysQuerier) selected(ctx context.Context, h *storage.SelectHints, ms []*labels.Matcher, whole bool) ([][]wire.SelectedSeries, error) {
	req := wire.BlocksSelect{Span: q.span, Matchers: wire.ToMatchers(ms), Whole: whole}
	if h != nil {
		req.MinT, req.MaxT = max(req.MinT, h.Start), min(req.MaxT, h.End)
		req.NoChunks, req.Limit = h.Func == "series", h.Limit
	}
	return searchAll(ctx, q, func(ctx context.Context, c wire.StoreServer, blocks wire.Blocks, heard func()) ([]wire.SelectedSeries, []ulid.ULID, error) {
		req := req
		req.Blocks = blocks
		a := &gathered{q: q}
		err := c.Select(ctx, &req, func(f *wire.SeriesFrame) error {
			heard()
			return a.add(f)
		})
		if err != nil {
			q.read.Add(-a.bytes) // another one is asked for the same
		}
		return a.series, a.searched, err
	})
}

// gathered is what one gateway has sent. It is held to the tenant's limits as it
// grows: what one gateway has sent alone is part of the query's answer.
type gathered struct {
	q        *gatewaysQuerier
	series   []wire.SelectedSeries
	searched []ulid.ULID
	distinct int
	bytes    int64
}

func (a *gathered) add(f *wire.SeriesFrame) error {
	limits := a.q.g.limits(a.q.id)
	for i := range f.Series {
		if n := len(a.series); n == 0 || !labels.Equal(a.series[n-1].Labels, f.Series[i].Labels) {
			a.distinct++
		}
		a.series = append(a.series, f.Series[i])
	}
	a.searched = append(a.searched, f.Searched...)
	n := chunkBytes(f)
	a.bytes += n
	switch read := a.q.read.Add(n); {
	case limits.MaxChunkBytes > 0 && read > int64(limits.MaxChunkBytes):
		return wire.Errorf(wire.Limited, "err-max-chunk-bytes",
			"query needs more than %d bytes of chunks from stored blocks, the limit (max_chunk_bytes_per_query). Select fewer series or a shorter time, or ask for a higher limit", limits.MaxChunkBytes)
	case limits.MaxSeriesPerQuery > 0 && a.distinct > limits.MaxSeriesPerQuery:
		return errTooManySeries(limits)
	}
	return nil
}

type gatewaysSamples struct{ *gatewaysQuerier }

// Select implements storage.Querier.
func (q gatewaysSamples) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	from, to := q.span.MinT, q.span.MaxT
	if h != nil {
		from, to = max(from, h.Start), min(to, h.End)
	}
	wait := ask(ctx, &q.asked, func(ctx context.Context) ([][]wire.SelectedSeries, error) { return q.selected(ctx, h, ms, true) })
	return mergedSamples(wait, from, to)
}

type gatewaysChunks struct{ *gatewaysQuerier }

// Select implements storage.ChunkQuerier.
func (q gatewaysChunks) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	wait := ask(ctx, &q.asked, func(ctx context.Context) ([][]wire.SelectedSeries, error) { return q.selected(ctx, h, ms, false) })
	return mergedChunks(wait)
}
