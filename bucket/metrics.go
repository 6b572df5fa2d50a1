package bucket

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
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
	operations *prometheus.CounterVec
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	retries    *prometheus.CounterVec
	bytes      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		operations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_bucket_requests_total",
			Help: "Operations on object storage, by the component that asked and by how they ended: ok, not_found, precondition (a conditional write that lost), cancelled (the caller gave up), error.",
		}, []string{"component", "operation", "outcome"}),
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hearth_bucket_s3_requests_total",
			Help: "HTTP requests to S3, which is what a provider bills, by component and operation: one for most operations, one for each thousand keys of a list, one for each part of a large put and two more, and those that were sent again.",
		}, []string{"component", "operation"}),
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
			Help: "Bytes of objects moved, by the component that asked: in is written to object storage, out is read from it.",
		}, []string{"component", "direction"}),
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

// observed counts what another Bucket does for one component.
type observed struct {
	Bucket
	m         *metrics
	component string
}

// For is the same Bucket in the hands of a component of the process, whose name
// is on what it asks for in the metrics.
func For(b Bucket, component string) Bucket {
	o, ok := b.(*observed)
	if !ok {
		return b // a test's own, which counts nothing
	}
	return &observed{o.Bucket, o.m, component}
}

// begin is called before an operation; its context says whose requests those
// are that are sent for it.
func (o *observed) begin(ctx context.Context, op string) (context.Context, time.Time) {
	return context.WithValue(ctx, orderKey{}, order{o.component, op}), time.Now()
}

func (o *observed) done(op string, start time.Time, err error) {
	o.m.operations.WithLabelValues(o.component, op, outcome(err)).Inc()
	o.m.duration.WithLabelValues(op).Observe(time.Since(start).Seconds())
}

func (o *observed) moved(direction string, n int64) {
	o.m.bytes.WithLabelValues(o.component, direction).Add(float64(n))
}

// order is what a request to S3 is sent for.
type order struct{ component, operation string }

type orderKey struct{}

// billed counts requests as they leave.
type billed struct {
	http.RoundTripper
	m *metrics
}

// RoundTrip implements http.RoundTripper.
func (b *billed) RoundTrip(r *http.Request) (*http.Response, error) {
	o, _ := r.Context().Value(orderKey{}).(order)
	b.m.requests.WithLabelValues(o.component, o.operation).Inc()
	return b.RoundTripper.RoundTrip(r)
}

// Close gives back what the Bucket holds.
func (o *observed) Close() error {
	if c, ok := o.Bucket.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (o *observed) Get(ctx context.Context, key Key) (io.ReadCloser, Object, error) {
	ctx, start := o.begin(ctx, opGet)
	rc, obj, err := o.Bucket.Get(ctx, key)
	if err != nil {
		o.done(opGet, start, err)
		return nil, Object{}, err
	}
	return &observedReader{ReadCloser: rc, o: o, op: opGet, start: start}, obj, nil
}

func (o *observed) GetRange(ctx context.Context, key Key, offset, length int64) (io.ReadCloser, error) {
	ctx, start := o.begin(ctx, opGetRange)
	rc, err := o.Bucket.GetRange(ctx, key, offset, length)
	if err != nil {
		o.done(opGetRange, start, err)
		return nil, err
	}
	return &observedReader{ReadCloser: rc, o: o, op: opGetRange, start: start}, nil
}

func (o *observed) Put(ctx context.Context, key Key, r io.ReadSeeker, size int64, cond Condition) (string, error) {
	ctx, start := o.begin(ctx, opPut)
	etag, err := o.Bucket.Put(ctx, key, r, size, cond)
	o.done(opPut, start, err)
	if err == nil {
		o.moved("in", size)
	}
	return etag, err
}

func (o *observed) Stat(ctx context.Context, key Key) (Object, error) {
	ctx, start := o.begin(ctx, opStat)
	obj, err := o.Bucket.Stat(ctx, key)
	o.done(opStat, start, err)
	return obj, err
}

func (o *observed) List(ctx context.Context, prefix Key, recursive bool) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		ctx, start := o.begin(ctx, opList)
		var last error
		defer func() { o.done(opList, start, last) }()
		for obj, err := range o.Bucket.List(ctx, prefix, recursive) {
			last = err
			if !yield(obj, err) {
				return
			}
		}
	}
}

func (o *observed) Delete(ctx context.Context, key Key) error {
	ctx, start := o.begin(ctx, opDelete)
	err := o.Bucket.Delete(ctx, key)
	o.done(opDelete, start, err)
	return err
}

// observedReader counts a read when it ends: an object that breaks off in the
// middle is a failed request although it could be opened.
type observedReader struct {
	io.ReadCloser
	o     *observed
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
	r.o.moved("out", r.n)
	r.o.done(r.op, r.start, r.err)
}
