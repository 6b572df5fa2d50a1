package querier

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync/atomic"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Replicas is a Recent that is many: it asks as many ingesters as are needed to
// see everything that was acknowledged, and merges their answers.
//
// Each of them has blocks of its own that are in the bucket, too, and says so
// when a query begins (Held), so that they are not read twice. What it is asked
// later names them (MustHold), so that they are not read never.
type Replicas struct {
	ring   *ring.Ring
	client func(ring.Member) (wire.IngesterServer, error)
	limits func(tenant.ID) *tenant.Limits
}

// NewReplicas makes a Recent of the members of a ring.
func NewReplicas(r *ring.Ring, client func(ring.Member) (wire.IngesterServer, error), limits func(tenant.ID) *tenant.Limits) *Replicas {
	return &Replicas{ring: r, client: client, limits: limits}
}

// from asks a quorum of a tenant's ingesters.
func from[T any](ctx context.Context, p *Replicas, id tenant.ID, ask func(context.Context, ring.Member, wire.IngesterServer) (T, error)) ([]T, error) {
	return ring.Read(ctx, p.ring, id, func(ctx context.Context, m ring.Member) (t T, err error) {
		c, err := p.client(m)
		if err != nil {
			return t, err
		}
		return ask(ctx, m, c)
	}, func(T) {})
}

// replicaQuerier is one query's view of all ingesters.
type replicaQuerier struct {
	p    *Replicas
	span wire.Span
	held map[string][]string // by member
	read atomic.Int64        // bytes of chunks

	asked questions
}

func (p *Replicas) open(ctx context.Context, id tenant.ID, mint, maxt int64) (*replicaQuerier, []ulid.ULID, error) {
	type answer struct {
		member string
		blocks []string
	}
	q := &replicaQuerier{p: p, span: wire.Span{Tenant: string(id), MinT: mint, MaxT: maxt}, held: map[string][]string{}}
	answers, err := from(ctx, p, id, func(ctx context.Context, m ring.Member, c wire.IngesterServer) (answer, error) {
		res, err := c.Held(ctx, &wire.HeldRequest{Span: q.span})
		if err != nil {
			return answer{}, err
		}
		return answer{m.ID, res.Blocks}, nil
	})
	if err != nil {
		return nil, nil, err
	}
	var all []ulid.ULID
	for _, a := range answers {
		q.held[a.member] = a.blocks
		for _, b := range a.blocks {
			block, err := ulid.ParseStrict(b)
			if err != nil {
				return nil, nil, err
			}
			all = append(all, block)
		}
	}
	return q, all, nil
}

// Querier implements Recent.
func (p *Replicas) Querier(ctx context.Context, id tenant.ID, mint, maxt int64) (storage.Querier, []ulid.ULID, error) {
	q, held, err := p.open(ctx, id, mint, maxt)
	if err != nil {
		return nil, nil, err
	}
	return replicaSamples{q}, held, nil
}

// ChunkQuerier implements Recent.
func (p *Replicas) ChunkQuerier(ctx context.Context, id tenant.ID, mint, maxt int64) (storage.ChunkQuerier, []ulid.ULID, error) {
	q, held, err := p.open(ctx, id, mint, maxt)
	if err != nil {
		return nil, nil, err
	}
	return replicaChunks{q}, held, nil
}

// Close implements storage.LabelQuerier. It ends questions whose answers nobody
// has waited for.
func (q *replicaQuerier) Close() error { return q.asked.end() }

// LabelNames implements storage.LabelQuerier.
func (q *replicaQuerier) LabelNames(ctx context.Context, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labels(ctx, "", h, ms)
}

// LabelValues implements storage.LabelQuerier.
func (q *replicaQuerier) LabelValues(ctx context.Context, name string, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.labels(ctx, name, h, ms)
}

func (q *replicaQuerier) labels(ctx context.Context, name string, h *storage.LabelHints, ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
	req := wire.LabelsRequest{Span: q.span, Matchers: wire.ToMatchers(ms), Name: name}
	if h != nil {
		req.Limit = h.Limit
	}
	answers, err := from(ctx, q.p, tenant.ID(q.span.Tenant), func(ctx context.Context, m ring.Member, c wire.IngesterServer) ([]string, error) {
		req := req
		req.MustHold = q.held[m.ID]
		res, err := c.Labels(ctx, &req)
		if err != nil {
			return nil, err
		}
		return res.Values, nil
	})
	if err != nil {
		return nil, nil, err
	}
	all := slices.Concat(answers...)
	slices.Sort(all)
	return slices.Compact(all), nil, nil
}

// selected asks for series, each list sorted by labels.
func (q *replicaQuerier) selected(ctx context.Context, h *storage.SelectHints, ms []*labels.Matcher) ([][]wire.SelectedSeries, error) {
	req := wire.SelectRequest{Span: q.span, Matchers: wire.ToMatchers(ms)}
	if h != nil {
		req.MinT, req.MaxT = max(req.MinT, h.Start), min(req.MaxT, h.End)
		req.NoChunks, req.Limit = h.Func == "series", h.Limit
	}
	return from(ctx, q.p, tenant.ID(q.span.Tenant), func(ctx context.Context, m ring.Member, c wire.IngesterServer) (all []wire.SelectedSeries, err error) {
		req := req
		req.MustHold = q.held[m.ID]
		limit := int64(q.p.limits(tenant.ID(q.span.Tenant)).MaxChunkBytes)
		err = c.Select(ctx, &req, func(f *wire.SeriesFrame) error {
			all = append(all, f.Series...)
			if n := q.read.Add(chunkBytes(f)); limit > 0 && n > limit {
				return wire.Errorf(wire.Limited, "err-max-recent-chunk-bytes",
					"query needs more than %d bytes of chunks of recent data, the limit (max_chunk_bytes_per_query). Select fewer series or a shorter time, or ask for a higher limit", limit)
			}
			return nil
		})
		return all, err
	})
}

func chunkBytes(f *wire.SeriesFrame) (n int64) {
	for i := range f.Series {
		for j := range f.Series[i].Chunks {
			n += int64(len(f.Series[i].Chunks[j].Data))
		}
	}
	return n
}

// questions are those that one query has asked. They belong to one goroutine.
type questions struct{ ends []func() } // each ends a question and waits for it

// end ends all questions.
func (q *questions) end() error {
	for _, end := range q.ends {
		end()
	}
	q.ends = nil
	return nil
}

// ask begins a question at once and waits for its answer when it is used, so
// that the selectors of one query are asked for at the same time.
func ask[T any](ctx context.Context, all *questions, question func(context.Context) (T, error)) func() (T, error) {
	var answer T
	var err error
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		defer cancel()
		answer, err = question(ctx)
	}()
	all.ends = append(all.ends, func() {
		cancel()
		<-done
	})
	return func() (T, error) {
		<-done // ctx ends it
		return answer, err
	}
}

type replicaSamples struct{ *replicaQuerier }

// Select implements storage.Querier.
func (q replicaSamples) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	wait := ask(ctx, &q.asked, func(ctx context.Context) ([][]wire.SelectedSeries, error) { return q.selected(ctx, h, ms) })
	return mergedSamples(wait, math.MinInt64, math.MaxInt64)
}

type replicaChunks struct{ *replicaQuerier }

// Select implements storage.ChunkQuerier.
func (q replicaChunks) Select(ctx context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	wait := ask(ctx, &q.asked, func(ctx context.Context) ([][]wire.SelectedSeries, error) { return q.selected(ctx, h, ms) })
	return mergedChunks(wait)
}

// ExemplarQuerier implements Recent.
func (p *Replicas) ExemplarQuerier(ctx context.Context, id tenant.ID) (storage.ExemplarQuerier, error) {
	return replicaExemplars{ctx, p, id}, nil
}

type replicaExemplars struct {
	ctx context.Context //nolint:containedctx // upstream's Select has none
	p   *Replicas
	id  tenant.ID
}

// Select implements storage.ExemplarQuerier.
func (q replicaExemplars) Select(start, end int64, sets ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	req := &wire.ExemplarsRequest{Span: wire.Span{Tenant: string(q.id), MinT: start, MaxT: end}}
	for _, set := range sets {
		req.Sets = append(req.Sets, wire.ToMatchers(set))
	}
	answers, err := from(q.ctx, q.p, q.id, func(ctx context.Context, _ ring.Member, c wire.IngesterServer) ([]wire.SeriesExemplars, error) {
		res, err := c.Exemplars(ctx, req)
		if err != nil {
			return nil, err
		}
		return res.Series, nil
	})
	if err != nil {
		return nil, err
	}
	return mergeExemplars(slices.Concat(answers...)), nil
}

// mergeExemplars puts the exemplars of equal series together, each once, in
// order of time.
func mergeExemplars(all []wire.SeriesExemplars) []exemplar.QueryResult {
	slices.SortStableFunc(all, func(a, b wire.SeriesExemplars) int { return labels.Compare(a.Labels, b.Labels) })
	var out []exemplar.QueryResult
	for i := range all {
		if n := len(out); n == 0 || !labels.Equal(out[n-1].SeriesLabels, all[i].Labels) {
			out = append(out, exemplar.QueryResult{SeriesLabels: all[i].Labels})
		}
		last := &out[len(out)-1]
		for _, e := range all[i].Exemplars {
			last.Exemplars = append(last.Exemplars, exemplar.Exemplar{Labels: e.Labels, Value: math.Float64frombits(e.Bits), Ts: e.T, HasTs: true})
		}
	}
	for i := range out {
		es := out[i].Exemplars
		slices.SortFunc(es, compareExemplars)
		out[i].Exemplars = slices.CompactFunc(es, func(a, b exemplar.Exemplar) bool { return compareExemplars(a, b) == 0 })
	}
	return out
}

// compareExemplars is the order in which a head takes exemplars in, as several
// may have the same time.
func compareExemplars(a, b exemplar.Exemplar) int {
	return cmp.Or(cmp.Compare(a.Ts, b.Ts), cmp.Compare(a.Value, b.Value), labels.Compare(a.Labels, b.Labels))
}

// Metadata implements Recent.
func (p *Replicas) Metadata(ctx context.Context, id tenant.ID, metric string, limit, limitPerMetric int) (map[string][]metadata.Metadata, error) {
	req := &wire.MetadataRequest{Tenant: string(id), Metric: metric, Limit: limit, LimitPerMetric: limitPerMetric}
	answers, err := from(ctx, p, id, func(ctx context.Context, _ ring.Member, c wire.IngesterServer) (*wire.MetadataResponse, error) {
		return c.Metadata(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	out := map[string][]metadata.Metadata{}
	for _, a := range answers {
		for name, list := range a.Metrics {
			for _, m := range list {
				md := metadata.Metadata{Type: model.MetricType(m.Type), Unit: m.Unit, Help: m.Help}
				if !slices.Contains(out[name], md) {
					out[name] = append(out[name], md)
				}
			}
		}
	}
	return out, nil
}
