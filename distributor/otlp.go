package distributor

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/klauspost/compress/s2"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// otlpMemory is about how many bytes an OTLP request holds decoded, for each of
// its own.
const otlpMemory = 4

// pushOTLP takes one OTLP request. It becomes a remote-write request, so that
// what holds for those holds for it: limits, pairs, replicas, what is counted.
func (d *Distributor) pushOTLP(ctx context.Context, id tenant.ID, c otlpCoding, body io.Reader) (outcome, error) {
	b := pool.Get().(*buffers)
	defer b.release()
	if err := d.admit(id, d.limits(id), -1); err != nil {
		return outcome{}, err
	}
	l := &lease{held: d.inflight.hold(id)}
	defer l.end()

	md, err := d.readOTLP(ctx, id, b, l, c, body)
	if err != nil {
		return outcome{}, err
	}
	var refused wire.Refusals
	removeDeltas(md, &refused)
	t := &translation{lease: l, max: d.cfg.MaxRequestBytes}
	if err := t.translate(ctx, md, &refused); err != nil {
		return outcome{}, err
	}
	if err := t.encode(b); err != nil {
		return outcome{}, err
	}
	d.metrics.bytesIn.Add(float64(len(b.body)))
	d.metrics.otlp.Inc()
	out, err := d.store(ctx, id, wire.V1, b)
	if err != nil {
		return outcome{}, err
	}
	if refused.First != nil { // what is refused behind is counted there
		d.meter.Refused(id, refused.First, refused.Counts)
		for _, c := range refused.Counts {
			d.metrics.refused.WithLabelValues(c.ID).Add(float64(c.Count))
		}
	}
	refused.Merge(&out.Refused)
	out.Refused = refused
	return out, nil
}

// lease is held for a request of which nobody knows before what it needs.
type lease struct {
	held
	err error // why it could not take more
}

func (l *lease) take(n int64) error {
	if 2*l.bytes+n > l.of.max { // it would never fit, however often it is sent
		l.err = wire.Errorf(wire.TooLarge, "err-request-too-large", "the request needs more than %d bytes of memory (half of distributor.max_inflight_bytes); send smaller requests", l.of.max/2)
	} else {
		l.err = l.held.take(n)
	}
	return l.err
}

// leased takes memory for what is read, as it is read: how much is in gzip,
// nobody knows before.
type leased struct {
	io.Reader
	lease *lease
}

func (r *leased) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if leaseErr := r.lease.take(int64(n) * otlpMemory); leaseErr != nil {
		return n, leaseErr
	}
	return n, err
}

// readOTLP decodes a body of at most as many bytes as any write request.
func (d *Distributor) readOTLP(ctx context.Context, id tenant.ID, b *buffers, l *lease, c otlpCoding, body io.Reader) (md pmetric.Metrics, err error) {
	if c.gzip {
		z, err := gzip.NewReader(body)
		if err != nil {
			return pmetric.Metrics{}, wire.Errorf(wire.Invalid, "err-decompress", "the body is not valid gzip: %s", err)
		}
		body = z
	}
	if err := b.read(&leased{body, l}, 0, d.cfg.MaxRequestBytes); err != nil {
		return pmetric.Metrics{}, errors.Join(l.err, err) // the first of them counts
	}
	if b.turn, err = d.turns.take(ctx, id); err != nil {
		return pmetric.Metrics{}, err
	}
	req := pmetricotlp.NewExportRequest()
	unmarshal := req.UnmarshalProto
	if c.json {
		unmarshal = req.UnmarshalJSON
	}
	if err := unmarshal(b.compressed); err != nil {
		return pmetric.Metrics{}, wire.Errorf(wire.Invalid, "err-otlp-request", "the body is no OTLP request for metrics: %s", err)
	}
	return req.Metrics(), nil
}

// encode makes a remote-write request of what was translated.
func (t *translation) encode(b *buffers) error {
	n := t.request.Size()
	if cap(b.body) < n {
		b.body = make([]byte, n)
	}
	b.body = b.body[:n]
	if _, err := t.request.MarshalToSizedBuffer(b.body); err != nil {
		return err
	}
	b.compressed = s2.EncodeSnappy(b.compressed[:cap(b.compressed)], b.body)
	return nil
}

// otlpCoding is how a request is written, and so its answer.
type otlpCoding struct {
	json bool
	gzip bool // the request only
}

const jsonType = "application/json"

func otlpCodingOf(h http.Header) (c otlpCoding, err error) {
	ct, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	switch {
	case err == nil && ct == mediaType:
	case err == nil && ct == jsonType:
		c.json = true
	default:
		return c, wire.Errorf(wire.Unsupported, "err-content-type", "content type %q is not supported, send %s or %s", h.Get("Content-Type"), mediaType, jsonType)
	}
	switch enc := strings.ToLower(h.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip":
		c.gzip = true
	default:
		return c, wire.Errorf(wire.Unsupported, "err-content-encoding", "content encoding %q is not supported, send gzip or none", enc)
	}
	return c, nil
}
