package wire

import (
	"fmt"
	"math"
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// PushRequest is a tenant's write request, or the part of it that one ingester
// is to store, as it goes from a distributor to an ingester.
//
//	message PushRequest {
//	  string tenant  = 1;
//	  uint32 version = 2;  // of remote write: 1 or 2
//	  bool   snappy  = 3;  // body is compressed
//	  string without = 4;  // label that is left out of every series
//	  bytes  body    = 15; // comes last
//	}
type PushRequest struct {
	Tenant  string
	Version Version
	Snappy  bool
	Without string
	Body    []byte

	free func()
}

// Release gives the memory back. Nothing of the request is used after it.
func (p *PushRequest) Release() {
	if p.free != nil {
		p.free()
	}
	*p = PushRequest{}
}

func (p *PushRequest) marshal() mem.BufferSlice {
	head := protowire.AppendTag(nil, 1, protowire.BytesType)
	head = protowire.AppendString(head, p.Tenant)
	head = protowire.AppendTag(head, 2, protowire.VarintType)
	head = protowire.AppendVarint(head, uint64(p.Version))
	if p.Snappy {
		head = protowire.AppendTag(head, 3, protowire.VarintType)
		head = protowire.AppendVarint(head, 1)
	}
	if p.Without != "" {
		head = protowire.AppendTag(head, 4, protowire.BytesType)
		head = protowire.AppendString(head, p.Without)
	}
	head = protowire.AppendTag(head, 15, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(p.Body)))
	return mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(p.Body)}
}

func (p *PushRequest) unmarshal(data []byte, free func()) error {
	*p = PushRequest{free: free}
	err := eachField(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 1:
			p.Tenant = string(b)
		case 2:
			p.Version = Version(v)
		case 3:
			p.Snappy = v != 0
		case 4:
			p.Without = string(b)
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

// SeriesFrame is some of the series that answer a select, in order of their
// labels over all frames.
//
//	message SeriesFrame {
//	  repeated Series series = 1;
//	  repeated bytes  searched = 2; // ULIDs of blocks
//	  message Series {
//	    repeated string labels = 1; // name, value, name, value, ...
//	    repeated Chunk  chunks = 2;
//	  }
//	  message Chunk {
//	    sint64 mint = 1; sint64 maxt = 2; // ms, inclusive
//	    uint32 encoding = 3;              // Prometheus' chunkenc.Encoding
//	    bytes  data = 4;
//	  }
//	}
type SeriesFrame struct {
	Series   []SelectedSeries
	Searched []ulid.ULID // only from store gateways, see StoreServer
}

// SelectedSeries is a series with its chunks, which do not overlap and are
// ordered by time. The data shares memory with what was received.
type SelectedSeries struct {
	Labels labels.Labels
	Chunks []SelectedChunk
}

// SelectedChunk is one chunk.
type SelectedChunk struct {
	MinT, MaxT int64 // ms, inclusive
	Encoding   chunkenc.Encoding
	Data       []byte
}

// Detach gives the chunks memory of their own.
func (f *SeriesFrame) Detach() *SeriesFrame {
	for i := range f.Series {
		for j := range f.Series[i].Chunks {
			c := &f.Series[i].Chunks[j]
			c.Data = slices.Clone(c.Data)
		}
	}
	return f
}

func (s *SelectedSeries) size() (n int) {
	s.Labels.Range(func(l labels.Label) {
		n += 2*protowire.SizeTag(1) + protowire.SizeBytes(len(l.Name)) + protowire.SizeBytes(len(l.Value))
	})
	for i := range s.Chunks {
		n += protowire.SizeTag(2) + protowire.SizeBytes(s.Chunks[i].size())
	}
	return n
}

func (s *SelectedSeries) append(b []byte) []byte {
	s.Labels.Range(func(l labels.Label) {
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendString(b, l.Name)
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendString(b, l.Value)
	})
	for i := range s.Chunks {
		c := &s.Chunks[i]
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(c.size()))
		b = c.append(b)
	}
	return b
}

func (c *SelectedChunk) size() int {
	return 4*protowire.SizeTag(1) +
		protowire.SizeVarint(protowire.EncodeZigZag(c.MinT)) + protowire.SizeVarint(protowire.EncodeZigZag(c.MaxT)) +
		protowire.SizeVarint(uint64(c.Encoding)) + protowire.SizeBytes(len(c.Data))
}

func (c *SelectedChunk) append(b []byte) []byte {
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, protowire.EncodeZigZag(c.MinT))
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	b = protowire.AppendVarint(b, protowire.EncodeZigZag(c.MaxT))
	b = protowire.AppendTag(b, 3, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(c.Encoding))
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	return protowire.AppendBytes(b, c.Data)
}

func (f *SeriesFrame) marshal() mem.BufferSlice {
	size := 0
	for i := range f.Series {
		size += protowire.SizeTag(1) + protowire.SizeBytes(f.Series[i].size())
	}
	size += len(f.Searched) * (protowire.SizeTag(2) + protowire.SizeBytes(len(ulid.ULID{})))
	b := make([]byte, 0, size)
	for i := range f.Series {
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(f.Series[i].size()))
		b = f.Series[i].append(b)
	}
	for _, id := range f.Searched {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, id[:])
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}
}

func (f *SeriesFrame) unmarshal(data []byte, free func()) error {
	// The chunks live as long as the query does, so they get memory of their own
	// that the garbage collector takes care of.
	data = slices.Clone(data)
	free()
	f.Series, f.Searched = f.Series[:0], nil
	return eachField(data, func(num protowire.Number, _ uint64, b []byte) error {
		switch num {
		case 1:
			s, err := readSeries(b)
			f.Series = append(f.Series, s)
			return err
		case 2:
			if len(b) != len(ulid.ULID{}) {
				return fmt.Errorf("a block's ID of %d bytes is none", len(b))
			}
			f.Searched = append(f.Searched, ulid.ULID(b))
		}
		return nil
	})
}

func readSeries(data []byte) (s SelectedSeries, err error) {
	var b labels.ScratchBuilder
	var name string
	named := false
	err = eachField(data, func(num protowire.Number, _ uint64, v []byte) error {
		switch {
		case num == 1 && !named:
			name, named = string(v), true
		case num == 1:
			b.Add(name, string(v))
			named = false
		case num == 2:
			c, err := readChunk(v)
			s.Chunks = append(s.Chunks, c)
			return err
		}
		return nil
	})
	if named && err == nil {
		err = fmt.Errorf("label %q has no value", name)
	}
	s.Labels = b.Labels()
	return s, err
}

// leastChunk is less than any chunk with a sample has. Prometheus' readers look
// at its first bytes without asking whether they are there.
const leastChunk = 5

func readChunk(data []byte) (c SelectedChunk, err error) {
	err = eachField(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 1:
			c.MinT = protowire.DecodeZigZag(v)
		case 2:
			c.MaxT = protowire.DecodeZigZag(v)
		case 3:
			if v > math.MaxUint8 {
				return fmt.Errorf("chunk encoding %d is unknown", v)
			}
			c.Encoding = chunkenc.Encoding(v)
		case 4:
			c.Data = b
		}
		return nil
	})
	if err == nil && len(c.Data) < leastChunk {
		err = fmt.Errorf("a chunk of %d bytes is none", len(c.Data))
	}
	return c, err
}

// eachField calls f with every field of a message: v of a varint, b of bytes.
func eachField(data []byte, f func(num protowire.Number, v uint64, b []byte) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := f(num, v, b); err != nil {
			return err
		}
	}
	return nil
}
