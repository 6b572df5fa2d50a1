package distributor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/s2"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// buffers is what one request needs of memory; reused.
type buffers struct {
	compressed []byte
	body       []byte
	request    wire.Request
	recorded   bool // by rules: not what one of a pair sends
	held       held
	turn       turn
}

var pool = sync.Pool{New: func() any { return new(buffers) }}

const (
	// maxKeptBuffer is the largest buffer that waits for its next use, so that
	// one giant request does not hold its memory for ever.
	maxKeptBuffer = 8 << 20
	// maxLargeBody is the same for a few bodies.
	maxLargeBody = 32 << 20
)

// large are a few bodies of more than maxKeptBuffer that wait for their next
// use. To have the kernel make the pages of a new one takes longer than to
// decode into it.
type large chan []byte

var largeBodies = make(large, 2)

// get may return nil.
func (l large) get(size int) []byte {
	select {
	case b := <-l:
		if cap(b) >= size {
			return b
		}
	default:
	}
	return nil
}

func (l large) put(b []byte) {
	if cap(b) > maxLargeBody {
		return
	}
	select {
	case l <- b[:0]:
	default:
	}
}

func (b *buffers) release() {
	b.request.Reset()
	b.recorded = false
	b.held.end()
	b.turn.end()
	if cap(b.compressed) > maxKeptBuffer {
		b.compressed = nil
	}
	if cap(b.body) > maxKeptBuffer {
		largeBodies.put(b.body)
		b.body = nil
	}
	pool.Put(b)
}

// outcome is what became of a request.
type outcome struct {
	wire.Pushed
	deduplicated int // samples of replicas that are not elected
}

// push takes one remote-write request from the connection to the ingester and
// says what became of it. An error means that nothing may have been stored.
func (d *Distributor) push(ctx context.Context, id tenant.ID, v wire.Version, body io.Reader, length int64) (outcome, error) {
	b := pool.Get().(*buffers)
	defer b.release()
	return d.pushWith(ctx, id, v, body, length, b)
}

// Append stores what rules record, a request 1.0 in snappy. It goes the way of
// all writes, but for pairs of Prometheus: a rule has no replica.
func (d *Distributor) Append(ctx context.Context, id tenant.ID, snappy []byte) (wire.Pushed, error) {
	b := pool.Get().(*buffers)
	defer b.release()
	b.recorded = true
	out, err := d.pushWith(ctx, id, wire.V1, bytes.NewReader(snappy), int64(len(snappy)), b)
	return out.Pushed, err
}

func (d *Distributor) pushWith(ctx context.Context, id tenant.ID, v wire.Version, body io.Reader, length int64, b *buffers) (outcome, error) {
	if !b.recorded {
		if err := d.admit(id, d.limits(id), length); err != nil {
			return outcome{}, err
		}
	}
	b.held = d.inflight.hold(id)
	if err := b.read(body, length, d.cfg.MaxRequestBytes); err != nil {
		return outcome{}, err
	}
	size, err := d.decodedSize(b.compressed)
	if err != nil {
		return outcome{}, err
	}
	if err, counted := d.checkSize(id, d.limits(id), size); err != nil && !b.recorded {
		return outcome{}, d.slow(id, err, counted, b)
	}
	if err := b.reserve(size); err != nil {
		return outcome{}, err
	}
	if b.turn, err = d.turns.take(ctx, id); err != nil {
		return outcome{}, err
	}
	if err := b.decompress(size); err != nil {
		return outcome{}, err
	}
	d.metrics.bytesIn.Add(float64(len(b.body)))
	d.metrics.perVersion[v].Inc()
	return d.store(ctx, id, v, b)
}

// reserve makes sure that there is memory for a body of a size, and for about as
// much again that is decoded from it.
func (b *buffers) reserve(size int) error { return b.held.take(2 * int64(size)) }

// decompress fills b.body. Those who wait for their turn have none yet: there are
// hundreds of them when a tenant sends hundreds of large requests at once.
func (b *buffers) decompress(size int) (err error) {
	if size > cap(b.body) && size > maxKeptBuffer {
		b.body = largeBodies.get(size)
	}
	if b.body, err = wire.Decompress(b.body, b.compressed); err != nil {
		return wire.Errorf(wire.Invalid, "err-decompress", "the body is not valid snappy: %s", err)
	}
	return nil
}

// store decodes, validates and limits the request in b, and hands on the rest.
func (d *Distributor) store(ctx context.Context, id tenant.ID, v wire.Version, b *buffers) (outcome, error) {
	limits := d.limits(id)
	check := newValidator(limits, &b.request, d.now())
	if limits.HADedupe && !b.recorded {
		check.ha = newHACheck(d.ha, id, limits, &b.request)
	}
	err := d.walk(id, v, b, check)
	b.turn.end() // what comes now waits for others
	if err != nil {
		return outcome{}, err
	}
	samples := len(b.request.Samples) + len(b.request.Histograms)
	counted := cost(samples, check.refused.Total(), len(b.body), limits.IngestionBurst)
	if err := d.checkRates(id, limits, counted, len(b.body)); err != nil {
		return outcome{}, d.slow(id, err, samples, b)
	}
	out := outcome{}
	compressed := b.compressed
	if len(b.request.Series)+len(b.request.Metadata) > 0 {
		var err error
		out.Pushed, err = d.ingester.Push(ctx, id, &b.request)
		if b.request.Compressed == nil {
			b.compressed = nil // it was taken
		}
		if err != nil {
			return outcome{}, err
		}
	}
	if check.ha != nil && check.ha.dropped > 0 {
		// Only now: what failed is sent again.
		d.ha.hold(id, v, compressed, check.ha.groups)
		d.metrics.ha.deduplicated.Add(float64(check.ha.dropped))
		out.deduplicated = check.ha.dropped
	}
	// What validation refused came first.
	check.refused.Merge(&out.Refused)
	out.Refused = check.refused
	d.meter.Stored(id, out.Samples+out.Histograms, len(b.body))
	if out.Refused.First != nil {
		d.meter.Refused(id, out.Refused.First, out.Refused.Counts)
	}
	return out, nil
}

// walk decodes the request in b, and takes out what check does not let pass.
func (d *Distributor) walk(id tenant.ID, v wire.Version, b *buffers, check *validator) error {
	b.request.Unasked = ^d.ingester.Needs(id, v) & (wire.Keys | wire.Hashes)
	if err := b.request.Walk(b.body, v, string(id), check.series); err != nil {
		return err
	}
	b.request.Compressed = b.compressed
	if check.ha != nil {
		check.ha.finish()
	}
	check.metadata()
	d.metrics.count(&b.request, &check.refused)
	return nil
}

// firstRead is what is reserved for a body of unknown length, to begin with, and
// the most that is allocated before something has come.
const firstRead = 64 << 10

// read fills b.compressed with a body of at most limit bytes. length is what
// the sender says it has, or negative. Memory is allocated for what has come, and
// as much again: to announce a body and not send it costs nothing.
func (b *buffers) read(body io.Reader, length int64, limit int) error {
	most := limit + 1 // one more is room for the end
	if length < 0 {
		length = firstRead
	} else {
		most = min(int(length), limit) + 1
	}
	if err := b.held.take(length); err != nil {
		return err
	}
	b.compressed = b.compressed[:0]
	for {
		if n := len(b.compressed); n == cap(b.compressed) {
			b.compressed = slices.Grow(b.compressed, max(1, min(max(n, firstRead), most-n)))
		}
		n, err := body.Read(b.compressed[len(b.compressed):cap(b.compressed)])
		b.compressed = b.compressed[:len(b.compressed)+n]
		switch {
		case len(b.compressed) > limit:
			return tooLarge(limit)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return wire.Errorf(wire.Invalid, "err-body-read", "the body ended early: %s", err)
		}
		if more := int64(len(b.compressed)) - b.held.bytes; more > 0 { // length was not known
			if err := b.held.take(more + b.held.bytes); err != nil {
				return err
			}
		}
	}
}

func (d *Distributor) decodedSize(compressed []byte) (int, error) {
	size, err := s2.DecodedLen(compressed)
	switch {
	case err != nil:
		return 0, wire.Errorf(wire.Invalid, "err-decompress", "the body is not valid snappy: %s", err)
	case size > d.cfg.MaxRequestBytes:
		return 0, tooLarge(d.cfg.MaxRequestBytes)
	}
	return size, nil
}

func tooLarge(limit int) error {
	return wire.Errorf(wire.TooLarge, "err-request-too-large", "the request is larger than %d bytes (distributor.max_request_bytes); send smaller requests", limit)
}

// The media types of remote write, as its specifications name them.
const (
	mediaType = "application/x-protobuf"
	messageV1 = "prometheus.WriteRequest"
	messageV2 = "io.prometheus.write.v2.Request"
)

// negotiate finds the protocol version that a request's headers announce. As
// in Prometheus, no header at all means version 1.0 in snappy.
func negotiate(h http.Header) (wire.Version, error) {
	if enc := h.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "snappy") {
		return 0, wire.Errorf(wire.Unsupported, "err-content-encoding", "content encoding %q is not supported, send snappy", enc)
	}
	ct := h.Get("Content-Type")
	if ct == "" {
		return wire.V1, nil
	}
	parts := strings.Split(ct, ";")
	if !strings.EqualFold(strings.TrimSpace(parts[0]), mediaType) {
		return 0, wire.Errorf(wire.Unsupported, "err-content-type", "content type %q is not supported, send %s", ct, mediaType)
	}
	for _, p := range parts[1:] {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(name, "proto") {
			continue
		}
		switch value {
		case messageV1:
			return wire.V1, nil
		case messageV2:
			return wire.V2, nil
		default:
			return 0, wire.Errorf(wire.Unsupported, "err-content-type", "message %q is not supported, send %s or %s", value, messageV1, messageV2)
		}
	}
	return wire.V1, nil
}

// reportRefusals is the answer to a request that was stored in part: the first
// reason in full, and how often each was met. It is "" if all was stored.
func reportRefusals(p *wire.Pushed) string {
	if p.Refused.First == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString(p.Refused.First.Error())
	b.WriteString("; refused:")
	for i, c := range p.Refused.Counts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(" " + strconv.Itoa(c.Count) + " " + c.ID)
	}
	b.WriteString("; the rest of the request is stored")
	return b.String()
}
