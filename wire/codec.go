package wire

import (
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // for health checks
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Codec is how members of a cluster write their messages: pushes and series,
// of which there are many, in protobuf's wire format without generated code
// (frames.go), everything else as JSON. Unknown fields are ignored in both, so
// members of two versions understand each other.
type Codec struct{}

// buffers hold messages that came in several frames of HTTP/2. A pool of gRPC's
// clears a buffer before it is used again, and its default one has nothing
// between 32 KiB and 1 MiB, the size of most pushes: clearing was 3% of what a
// push cost an ingester, and swept its cache.
var buffers = newBuffers()

func newBuffers() mem.BufferPool {
	pool, err := mem.NewBinaryTieredBufferPool(12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return pool
}

// framed is a message that writes and reads itself.
type framed interface {
	// marshal returns the message; it may share memory with it.
	marshal() mem.BufferSlice
	// unmarshal reads the message, which may share memory with data until it is
	// released. It calls free when data is not needed any more, also on errors.
	unmarshal(data []byte, free func()) error
}

// Name implements encoding.CodecV2.
func (Codec) Name() string { return "hearth" }

// Marshal implements encoding.CodecV2.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case framed:
		return m.marshal(), nil
	case proto.Message:
		return encoding.GetCodecV2("proto").Marshal(m)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case framed:
		b := data.MaterializeToBuffer(buffers)
		if err := m.unmarshal(b.ReadOnlyData(), b.Free); err != nil {
			return fmt.Errorf("decode %T: %w", v, err)
		}
		return nil
	case proto.Message:
		return encoding.GetCodecV2("proto").Unmarshal(data, m)
	}
	if err := json.Unmarshal(data.Materialize(), v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
