package ingester

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Server is the ingester as other members of the cluster see it. They have
// validated what they push.
func (i *Ingester) Server() wire.IngesterServer { return &server{i} }

type server struct{ i *Ingester }

// decoded is what one request from another member needs of memory; reused.
type decoded struct {
	body    []byte
	request wire.Request
}

var decodings = sync.Pool{New: func() any { return new(decoded) }}

func (d *decoded) release() {
	d.request.Reset()
	if cap(d.body) > maxKeptBuffer {
		d.body = nil
	}
	decodings.Put(d)
}

const (
	maxBody       = 128 << 20 // far above what a distributor accepts
	maxKeptBuffer = 8 << 20
)

// Push implements wire.IngesterServer.
func (s *server) Push(ctx context.Context, p *wire.PushRequest) (*wire.Pushed, error) {
	defer p.Release()
	id, err := tenant.ParseID(p.Tenant)
	if err != nil {
		return nil, err
	}
	d := decodings.Get().(*decoded)
	defer d.release()
	body := p.Body
	if p.Snappy {
		if n, err := s2.DecodedLen(body); err != nil || n > maxBody {
			return nil, wire.Errorf(wire.Invalid, "err-decompress", "the body is not valid snappy, or longer than %d bytes", maxBody)
		}
		if d.body, err = wire.Decompress(d.body, body); err != nil {
			return nil, wire.Errorf(wire.Invalid, "err-decompress", "the body is not valid snappy: %s", err)
		}
		body = d.body
	}
	d.request.Unasked = wire.Hashes // it is placed already
	err = d.request.Walk(body, p.Version, string(id), func(series *wire.Series, _ []wire.Label) bool {
		if p.Without != "" {
			d.request.LeaveOut(series, p.Without)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	d.request.CleanMetadata(nil)
	pushed, err := s.i.Push(ctx, id, &d.request)
	return &pushed, err
}

// PushKeyed implements wire.IngesterServer.
func (s *server) PushKeyed(ctx context.Context, p *wire.KeyedRequest) (*wire.KeyedAnswer, error) {
	defer p.Release()
	outcomes := s.i.metrics.keyed
	if p.Secret != wire.SecretID() {
		outcomes.WithLabelValues("secret").Inc()
		return new(wire.KeyedAnswer), nil
	}
	id, err := tenant.ParseID(p.Tenant)
	if err != nil {
		return nil, err
	}
	d := decodings.Get().(*decoded)
	defer d.release()
	if err := d.request.ReadKeyed(p.Body); err != nil {
		return nil, err
	}
	pushed, err := s.i.Push(ctx, id, &d.request)
	switch {
	case errors.Is(err, errUnnamed):
		outcomes.WithLabelValues("unknown").Inc()
		return new(wire.KeyedAnswer), nil
	case err != nil:
		return nil, err
	}
	outcomes.WithLabelValues("stored").Inc()
	return &wire.KeyedAnswer{Known: true, Series: pushed.Series}, nil
}

// Held implements wire.IngesterServer.
func (s *server) Held(ctx context.Context, r *wire.HeldRequest) (*wire.HeldResponse, error) {
	q, held, err := s.i.Querier(ctx, tenant.ID(r.Tenant), r.MinT, r.MaxT)
	if err != nil {
		return nil, err
	}
	res := &wire.HeldResponse{Blocks: make([]string, len(held))}
	for n, id := range held {
		res.Blocks[n] = id.String()
	}
	return res, q.Close()
}

// frameBytes is how much of chunks goes into one frame.
const frameBytes = 256 << 10

// Select implements wire.IngesterServer.
func (s *server) Select(ctx context.Context, r *wire.SelectRequest, send func(*wire.SeriesFrame) error) error {
	ms, err := wire.FromMatchers(r.Matchers)
	if err != nil {
		return err
	}
	q, held, err := s.i.ChunkQuerier(ctx, tenant.ID(r.Tenant), r.MinT, r.MaxT)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }() // of reading only
	if err := mustHold(held, r.MustHold); err != nil {
		return err
	}
	hints := &storage.SelectHints{Start: r.MinT, End: r.MaxT, Limit: r.Limit}
	if r.NoChunks {
		hints.Func = "series"
	}
	set := q.Select(ctx, true, hints, ms...)
	frame, size := &wire.SeriesFrame{}, 0
	var it chunks.Iterator
	for set.Next() {
		series := wire.SelectedSeries{Labels: set.At().Labels()}
		if !r.NoChunks {
			it = set.At().Iterator(it)
			if series.Chunks, err = gather(it); err != nil {
				return err
			}
		}
		frame.Series = append(frame.Series, series)
		for n := range series.Chunks {
			size += len(series.Chunks[n].Data)
		}
		if size += 100; size > frameBytes {
			if err := send(frame); err != nil {
				return err
			}
			frame, size = &wire.SeriesFrame{}, 0
		}
	}
	if set.Err() != nil || len(frame.Series) == 0 {
		return set.Err()
	}
	return send(frame)
}

func gather(it chunks.Iterator) (out []wire.SelectedChunk, err error) {
	for it.Next() {
		m := it.At()
		out = append(out, wire.SelectedChunk{MinT: m.MinTime, MaxT: m.MaxTime, Encoding: m.Chunk.Encoding(), Data: m.Chunk.Bytes()})
	}
	return out, it.Err()
}

// errBlockGone says that a block was deleted between the questions of a query.
var errBlockGone = errors.New("a block is not held any more")

func mustHold(held []ulid.ULID, want []string) error {
	for _, id := range want {
		if !slices.ContainsFunc(held, func(h ulid.ULID) bool { return h.String() == id }) {
			return fmt.Errorf("%w: %s", errBlockGone, id)
		}
	}
	return nil
}

// Labels implements wire.IngesterServer.
func (s *server) Labels(ctx context.Context, r *wire.LabelsRequest) (*wire.LabelsResponse, error) {
	ms, err := wire.FromMatchers(r.Matchers)
	if err != nil {
		return nil, err
	}
	q, held, err := s.i.Querier(ctx, tenant.ID(r.Tenant), r.MinT, r.MaxT)
	if err != nil {
		return nil, err
	}
	defer func() { _ = q.Close() }() // of reading only
	if err := mustHold(held, r.MustHold); err != nil {
		return nil, err
	}
	hints, res := &storage.LabelHints{Limit: r.Limit}, &wire.LabelsResponse{}
	var values []string
	if r.Name == "" {
		values, _, err = q.LabelNames(ctx, hints, ms...)
	} else {
		values, _, err = q.LabelValues(ctx, r.Name, hints, ms...)
	}
	for _, v := range values {
		res.Values = append(res.Values, strings.Clone(v)) // of memory that q has mapped
	}
	return res, err
}

// Exemplars implements wire.IngesterServer.
func (s *server) Exemplars(ctx context.Context, r *wire.ExemplarsRequest) (*wire.ExemplarsResponse, error) {
	sets := make([][]*labels.Matcher, len(r.Sets))
	for n, set := range r.Sets {
		var err error
		if sets[n], err = wire.FromMatchers(set); err != nil {
			return nil, err
		}
	}
	q, err := s.i.ExemplarQuerier(ctx, tenant.ID(r.Tenant))
	if err != nil {
		return nil, err
	}
	found, err := q.Select(r.MinT, r.MaxT, sets...)
	if err != nil {
		return nil, err
	}
	res := &wire.ExemplarsResponse{}
	for _, f := range found {
		series := wire.SeriesExemplars{Labels: f.SeriesLabels}
		for _, e := range f.Exemplars {
			series.Exemplars = append(series.Exemplars, wire.ExemplarData{Labels: e.Labels, Bits: math.Float64bits(e.Value), T: e.Ts})
		}
		res.Series = append(res.Series, series)
	}
	return res, nil
}

// Metadata implements wire.IngesterServer.
func (s *server) Metadata(ctx context.Context, r *wire.MetadataRequest) (*wire.MetadataResponse, error) {
	found, err := s.i.Metadata(ctx, tenant.ID(r.Tenant), r.Metric, r.Limit, r.LimitPerMetric)
	if err != nil {
		return nil, err
	}
	res := &wire.MetadataResponse{Metrics: map[string][]wire.MetricMetadata{}}
	for name, list := range found {
		for _, m := range list {
			res.Metrics[name] = append(res.Metrics[name], wire.MetricMetadata{Type: string(m.Type), Unit: m.Unit, Help: m.Help})
		}
	}
	return res, nil
}
