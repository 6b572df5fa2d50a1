package bucket

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The operations, as values of the label "operation".
const (
	opGet      = "get"
	opGetRange = "get_range"
	opPut      = "put"
	opStat     = "stat"
	opList     = "list"
	opDelete   = "delete"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	bytes    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_bucket_requests_total",
			Help: "Operations on object storage, by how they ended: ok, not_found, precondition (a conditional write that lost), cancelled (the caller gave up), error.",
		}, []string{"operation", "outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "hearth_bucket_request_duration_seconds",
			Help:                            "How long operations on object storage took, retries included. A read lasts until its caller has read all of it.",
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
			Buckets:                         []float64{.005, .02, .1, .5, 2, 10, 60},
		}, []string{"operation"}),
		retries: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_bucket_retries_total",
			Help: "Requests to object storage that failed and were sent again, by operation. They are part of one operation.",
		}, []string{"operation"}),
		bytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_bucket_bytes_total",
			Help: "Bytes of objects moved: in is written to object storage, out is read from it.",
		}, []string{"direction"}),
	}
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, ErrPrecondition):
		return "precondition"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	default:
		return "error"
	}
}

func (m *metrics) done(op string, start time.Time, err error) {
	m.requests.WithLabelValues(op, outcome(err)).Inc()
	m.duration.WithLabelValues(op).Observe(time.Since(start).Seconds())
}

// observed counts what another Bucket does.
type observed struct {
	Bucket
	m *metrics
}

// Close gives back what the Bucket holds.
func (o *observed) Close() error {
	if c, ok := o.Bucket.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (o *observed) Get(ctx context.Context, key Key) (io.ReadCloser, Object, error) {
	start := time.Now()
	rc, obj, err := o.Bucket.Get(ctx, key)
	if err != nil {
		o.m.done(opGet, start, err)
		return nil, Object{}, err
	}
	return &observedReader{ReadCloser: rc, m: o.m, op: opGet, start: start}, obj, nil
}

func (o *observed) GetRange(ctx context.Context, key Key, offset, length int64) (io.ReadCloser, error) {
	start := time.Now()
	rc, err := o.Bucket.GetRange(ctx, key, offset, length)
	if err != nil {
		o.m.done(opGetRange, start, err)
		return nil, err
	}
	return &observedReader{ReadCloser: rc, m: o.m, op: opGetRange, start: start}, nil
}

func (o *observed) Put(ctx context.Context, key Key, r io.ReadSeeker, size int64, cond Condition) (string, error) {
	start := time.Now()
	etag, err := o.Bucket.Put(ctx, key, r, size, cond)
	o.m.done(opPut, start, err)
	if err == nil {
		o.m.bytes.WithLabelValues("in").Add(float64(size))
	}
	return etag, err
}

func (o *observed) Stat(ctx context.Context, key Key) (Object, error) {
	start := time.Now()
	obj, err := o.Bucket.Stat(ctx, key)
	o.m.done(opStat, start, err)
	return obj, err
}

func (o *observed) List(ctx context.Context, prefix Key, recursive bool) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		start := time.Now()
		var last error
		defer func() { o.m.done(opList, start, last) }()
		for obj, err := range o.Bucket.List(ctx, prefix, recursive) {
			last = err
			if !yield(obj, err) {
				return
			}
		}
	}
}

func (o *observed) Delete(ctx context.Context, key Key) error {
	start := time.Now()
	err := o.Bucket.Delete(ctx, key)
	o.m.done(opDelete, start, err)
	return err
}

// observedReader counts a read when it ends: an object that breaks off in the
// middle is a failed request although it could be opened.
type observedReader struct {
	io.ReadCloser
	m     *metrics
	op    string
	start time.Time
	n     int64
	err   error
	ended bool
}

func (r *observedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	if err != nil {
		if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			r.err = err
		}
		r.end()
	}
	return n, err
}

func (r *observedReader) Close() error {
	r.end()
	return r.ReadCloser.Close()
}

func (r *observedReader) end() {
	if r.ended {
		return
	}
	r.ended = true
	r.m.bytes.WithLabelValues("out").Add(float64(r.n))
	r.m.done(r.op, r.start, r.err)
}
