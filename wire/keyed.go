package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// KeyedRequest is a write request in which the Keys of the series stand for
// their labels: for an ingester that has the same Secret and knows the series
// it is all there is to know, and costs it neither decompressing nor reading
// and hashing labels.
//
//	message KeyedRequest {
//	  string tenant = 1;
//	  uint64 secret = 2;  // SecretID of the sender
//	  bytes  body   = 15; // comes last
//	}
//
// The body has, for each series:
//
//	key      16 bytes, two numbers of 8 bytes, the lower byte first
//	samples  varint, how many follow
//	  time   zigzag varint, milliseconds since the sample before in the request
//	  value  8 bytes, the bits of the float, the lower byte first
type KeyedRequest struct {
	Tenant string
	Secret uint64
	Body   []byte

	Samples int // in the body; for the sender to know, and not sent

	free func()
}

// KeyedAnswer says what became of a KeyedRequest.
type KeyedAnswer struct {
	Known  bool // all is stored; otherwise nothing is, and the series have to be sent with their labels
	Series int  // as in Pushed
}

// What a sample takes at most, and a series at most without its samples, or
// with one whose time is near that of the one before.
const (
	keyedSample = binary.MaxVarintLen64 + 8
	keyedSeries = 16 + binary.MaxVarintLen32 + 1 + 8
)

// Keyed makes a message of the series in items, nil: of all, in which their Keys
// stand for them. The message shares no memory with the request. It is nil where
// a request has more than that can say.
func (r *Request) Keyed(tenant string, items []int) *KeyedRequest {
	if r.Unasked&Keys != 0 || len(r.Series) == 0 || len(r.Histograms)+len(r.Exemplars)+len(r.Metadata) > 0 {
		return nil
	}
	n := len(items)
	if items == nil {
		n = len(r.Series)
	}
	body, at := make([]byte, n*keyedSeries), 0
	before, samples := int64(0), 0
	for k := range n {
		i := k
		if items != nil {
			i = items[k]
		}
		s := &r.Series[i]
		samples += s.Samples.Len()
		if more := at + keyedSeries + s.Samples.Len()*keyedSample; more > len(body) {
			body = slices.Grow(body, more-len(body))
			body = body[:cap(body)]
		}
		binary.LittleEndian.PutUint64(body[at:], s.Key[0])
		binary.LittleEndian.PutUint64(body[at+8:], s.Key[1])
		at += 16
		at += binary.PutUvarint(body[at:], uint64(s.Samples.Len()))
		for _, x := range r.Samples[s.Samples.Lo:s.Samples.Hi] {
			at += binary.PutVarint(body[at:], x.T-before)
			binary.LittleEndian.PutUint64(body[at:], math.Float64bits(x.V))
			at += 8
			before = x.T
		}
	}
	body = body[:at]
	return &KeyedRequest{Tenant: tenant, Secret: SecretID(), Body: body, Samples: samples}
}

// ReadKeyed makes r the request that a message of Keyed has. Its series have
// Keys and no labels: Labels and Hash cannot be asked for.
func (r *Request) ReadKeyed(body []byte) error {
	r.Reset()
	r.OnlyKeys = true
	before := int64(0)
	for len(body) > 0 {
		if len(body) < 17 {
			return errKeyed
		}
		s := Series{Key: Key{binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[8:])}}
		s.Samples.Lo = uint32(len(r.Samples))
		count, n := binary.Uvarint(body[16:])
		if n <= 0 || count > uint64(len(body)) {
			return errKeyed
		}
		body = body[16+n:]
		for range count {
			d, n := binary.Varint(body)
			if n <= 0 || len(body) < n+8 {
				return errKeyed
			}
			before += d
			r.Samples = append(r.Samples, Sample{T: before, V: math.Float64frombits(binary.LittleEndian.Uint64(body[n:]))})
			body = body[n+8:]
		}
		s.Samples.Hi = uint32(len(r.Samples))
		r.Series = append(r.Series, s)
	}
	return nil
}

var errKeyed = errors.New("a keyed request ends early")

// Release gives the memory back. Nothing of the request is used after it.
func (p *KeyedRequest) Release() {
	if p.free != nil {
		p.free()
	}
	*p = KeyedRequest{}
}

func (p *KeyedRequest) marshal() mem.BufferSlice {
	head := make([]byte, 0, len(p.Tenant)+32)
	head = protowire.AppendTag(head, 1, protowire.BytesType)
	head = protowire.AppendString(head, p.Tenant)
	head = protowire.AppendTag(head, 2, protowire.VarintType)
	head = protowire.AppendVarint(head, p.Secret)
	head = protowire.AppendTag(head, 15, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(p.Body)))
	return mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(p.Body)}
}

func (p *KeyedRequest) unmarshal(data []byte, free func()) error {
	*p = KeyedRequest{free: free}
	err := eachField(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 1:
			p.Tenant = string(b)
		case 2:
			p.Secret = v
		case 15:
			p.Body = b
		}
		return nil
	})
	if err != nil {
		p.Release()
	}
	return err
}

//	message KeyedAnswer {
//	  bool   known  = 1;
//	  uint64 series = 2;
//	}
func (a *KeyedAnswer) marshal() mem.BufferSlice {
	b := make([]byte, 0, 16)
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, protowire.EncodeBool(a.Known))
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(a.Series))
	return mem.BufferSlice{mem.SliceBuffer(b)}
}

func (a *KeyedAnswer) unmarshal(data []byte, free func()) error {
	defer free()
	*a = KeyedAnswer{}
	return eachField(data, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			a.Known = v != 0
		case 2:
			a.Series = int(v)
		}
		return nil
	})
}
