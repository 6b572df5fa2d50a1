package querier

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"

	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// maxFrame is the size of a frame of streamed chunks, in bytes; a chunk more
// may be in it. It is Prometheus' default, and clients accept 50 times that.
const maxFrame = 1 << 20

// serveRead answers remote read, as samples or as streamed chunks. It is made
// of the pieces of Prometheus' handler, which itself answers 500 to whatever
// is wrong and ends a broken stream as if it were whole.
func (q *Querier) serveRead(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err := q.read(w, r); err != nil {
		writePlainError(w, err)
	}
}

func (q *Querier) read(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	who, err := q.whose(ctx)
	if err != nil {
		return err
	}
	req, err := remote.DecodeReadRequest(r)
	if err != nil {
		return wire.Errorf(wire.Invalid, "err-read-request", "decode read request: %v", err)
	}
	answerAs, err := remote.NegotiateResponseType(req.AcceptedResponseTypes)
	if err != nil {
		return wire.Errorf(wire.Invalid, "err-read-request", "%v", err)
	}
	for _, query := range req.Queries {
		if err := q.checkSpan(who.limits, spanOf(query.StartTimestampMs, query.EndTimestampMs)); err != nil {
			return err
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		// A client that stops reading must not hold its turn for ever. Not
		// every ResponseWriter knows deadlines.
		_ = http.NewResponseController(w).SetWriteDeadline(deadline)
	}
	if answerAs == prompb.ReadRequest_STREAMED_XOR_CHUNKS {
		err = q.readChunks(ctx, w, req)
	} else {
		err = q.readSamples(ctx, w, who, req)
	}
	return q.refineIn(ctx, who.name(), err)
}

// readSamples collects the whole answer before it writes any of it, so the
// tenant's limit of samples in memory holds for all queries of the request.
func (q *Querier) readSamples(ctx context.Context, w http.ResponseWriter, who owners, req *prompb.ReadRequest) error {
	l := who.limits
	left := l.MaxSamplesPerQuery
	if left <= 0 {
		left = math.MaxInt
	}
	resp := &prompb.ReadResponse{Results: make([]*prompb.QueryResult, len(req.Queries))}
	for i, query := range req.Queries {
		if left == 0 {
			return q.tooManySamples(l)
		}
		res, err := q.readQuery(ctx, query, left)
		if err != nil {
			var over remote.HTTPError // all that it is used for
			if errors.As(err, &over) {
				return q.tooManySamples(l)
			}
			return err
		}
		before := left
		for _, ts := range res.Timeseries {
			left -= len(ts.Samples) + len(ts.Histograms)
		}
		divided(who.ids, before-left, func(id tenant.ID, n int) { q.meter.Read(id, 0, n) })
		resp.Results[i] = res
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Content-Encoding", "snappy")
	if err := remote.EncodeReadResponse(resp, w); err != nil {
		q.logger.Debug("remote read broken off", "err", err) // the client has gone
	}
	return nil
}

func (q *Querier) readQuery(ctx context.Context, query *prompb.Query, sampleLimit int) (*prompb.QueryResult, error) {
	ms, err := remote.FromLabelMatchers(query.Matchers)
	if err != nil {
		return nil, badMatchers(err)
	}
	from, err := q.Queryable().Querier(query.StartTimestampMs, query.EndTimestampMs)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	res, _, err := remote.ToQueryResult(from.Select(ctx, false, readHints(query.Hints), ms...), sampleLimit)
	return res, err
}

// readChunks streams. Once a frame is out the status is too: an error then
// breaks the connection off, so that no client takes a part for the whole.
func (q *Querier) readChunks(ctx context.Context, w http.ResponseWriter, req *prompb.ReadRequest) error {
	flusher, ok := w.(http.Flusher)
	if !ok {
		return fmt.Errorf("BUG: %T cannot stream", w)
	}
	w.Header().Set("Content-Type", "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse")
	begun := &begunWriter{ResponseWriter: w}
	frames := remote.NewChunkedWriter(begun, flusher)
	for i, query := range req.Queries {
		err := q.streamQuery(ctx, frames, int64(i), query)
		switch {
		case err == nil:
		case begun.yes:
			q.logger.Debug("remote read broken off", "err", err)
			panic(http.ErrAbortHandler)
		default:
			return err
		}
	}
	frames.Close()
	return nil
}

func (q *Querier) streamQuery(ctx context.Context, frames *remote.ChunkedWriter, index int64, query *prompb.Query) error {
	ms, err := remote.FromLabelMatchers(query.Matchers)
	if err != nil {
		return badMatchers(err)
	}
	from, err := q.Queryable().ChunkQuerier(query.StartTimestampMs, query.EndTimestampMs)
	if err != nil {
		return err
	}
	defer from.Close()
	set := from.Select(ctx, true, readHints(query.Hints), ms...)
	_, err = remote.StreamChunkedReadResponses(frames, index, untilDone(ctx, set), nil, maxFrame, &sync.Pool{})
	return err
}

func badMatchers(err error) error {
	return wire.Errorf(wire.Invalid, "err-read-request", "matchers: %v", err)
}

func readHints(h *prompb.ReadHints) *storage.SelectHints {
	if h == nil {
		return nil
	}
	return &storage.SelectHints{
		Start:    h.StartMs,
		End:      h.EndMs,
		Step:     h.StepMs,
		Func:     h.Func,
		Grouping: h.Grouping,
		Range:    h.RangeMs,
		By:       h.By,
	}
}

// untilDone ends a set with the context: nobody else looks at it while chunks
// are streamed.
func untilDone(ctx context.Context, set storage.ChunkSeriesSet) storage.ChunkSeriesSet {
	return &endingSet{ChunkSeriesSet: set, err: ctx.Err}
}

type endingSet struct {
	storage.ChunkSeriesSet
	err func() error
}

func (s *endingSet) Next() bool { return s.err() == nil && s.ChunkSeriesSet.Next() }

func (s *endingSet) Err() error {
	if err := s.err(); err != nil {
		return err
	}
	return s.ChunkSeriesSet.Err()
}

// begunWriter knows whether anything was written.
type begunWriter struct {
	http.ResponseWriter
	yes bool
}

func (w *begunWriter) Write(b []byte) (int, error) {
	w.yes = true
	return w.ResponseWriter.Write(b)
}
