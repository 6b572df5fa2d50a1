package wire

import (
	"encoding/binary"
	"math"
	"math/bits"
	"unsafe"
)

// The protobuf wire format, read from a slice that ends where the message
// ends. Positions count from the start of the request's body, so an error can
// say where it is. Readers return the position behind what they read; a
// negative one means that it is not there, and fault then finds out why.

// Wire types.
const (
	typeVarint     = 0
	typeFixed64    = 1
	typeBytes      = 2
	typeGroupStart = 3
	typeGroupEnd   = 4
	typeFixed32    = 5
)

const maxFieldNumber = 1<<29 - 1

// Sets of wire types, as a message declares them for its fields.
const (
	asVarint = 1 << typeVarint
	asDouble = 1 << typeFixed64
	asBytes  = 1 << typeBytes
	asAny    = 0xff
)

// message describes the fields that we read of a message, by number, for
// telling them from unknown ones and for saying what was wrong.
type message struct {
	name   string
	fields [18]field
}

type field struct {
	name  string
	types uint8
}

// opaque is a message of which no field is known: all are skipped.
var opaque message

// of is the field of a tag; one that m does not know can have any type.
func (m *message) of(tag uint64) field {
	if num := tag >> 3; num < uint64(len(m.fields)) && m.fields[num].types != 0 {
		return m.fields[num]
	}
	return field{types: asAny}
}

func (f field) has(tag uint64) bool { return f.types>>(tag&7)&1 != 0 }

// uvarint reads a varint of at most ten bytes. Like the generated decoders it
// takes one that is longer than it need be, and drops bits above the 64th.
func uvarint(b []byte, i int) (v uint64, next int) {
	if i >= len(b) || b[i] >= 0x80 {
		return longUvarint(b, i)
	}
	return uint64(b[i]), i + 1
}

// Which bits of eight bytes belong to a varint of 1 to 8 bytes, and the bit
// that ends one.
const (
	varintEnd  = 0x8080808080808080
	varintBits = 0x7f7f7f7f7f7f7f7f
)

func longUvarint(b []byte, i int) (v uint64, next int) {
	if i+8 <= len(b) {
		// Eight bytes at once: find the last byte of the varint, forget the
		// ones behind it, and close the gaps pairwise.
		x := binary.LittleEndian.Uint64(b[i:])
		if end := ^x & varintEnd; end != 0 {
			n := bits.TrailingZeros64(end) >> 3
			x &= varintBits & (^uint64(0) >> (56 - 8*n))
			x = x&0x007f007f007f007f | x&0x7f007f007f007f00>>1
			x = x&0x00003fff00003fff | x&0x3fff00003fff0000>>2
			x = x&0x000000000fffffff | x&0x0fffffff00000000>>4
			return x, i + n + 1
		}
	}
	for shift := 0; shift < 64; shift += 7 {
		if i >= len(b) {
			return 0, -1
		}
		c := b[i]
		i++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, i
		}
	}
	return 0, -1
}

// span reads a length and returns the bounds of the bytes that it counts.
func span(b []byte, i int) (lo, hi int) {
	n, lo := uvarint(b, i)
	if lo < 0 || n > uint64(len(b)-lo) {
		return 0, -1
	}
	return lo, lo + int(n)
}

func double(b []byte, i int) (v float64, next int) {
	if len(b)-i < 8 {
		return 0, -1
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b[i:])), i + 8
}

func zigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// text is the bytes as a string that shares their memory.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// skip steps over the field whose tag is at b[at:]. If m knows the field, its
// wire type must be right.
func skip(b []byte, at int, m *message) (next int, err error) {
	depth := 0
	for i := at; ; i = next {
		var tag uint64
		tag, next = uvarint(b, i)
		num := tag >> 3
		if next < 0 || num == 0 || num > maxFieldNumber || depth == 0 && !m.of(tag).has(tag) {
			return 0, fault(b, i, m)
		}
		switch tag & 7 {
		case typeVarint:
			_, next = uvarint(b, next)
		case typeFixed64:
			next += 8
		case typeBytes:
			_, next = span(b, next)
		case typeGroupStart:
			depth++
		case typeGroupEnd:
			depth--
		case typeFixed32:
			next += 4
		default:
			depth = -1
		}
		if next < 0 || next > len(b) || depth < 0 {
			return 0, fault(b, i, m)
		}
		if depth == 0 {
			return next, nil
		}
	}
}

// fault says what is wrong with the field whose tag is at b[at:].
func fault(b []byte, at int, m *message) error {
	tag, next := uvarint(b, at)
	num, typ := tag>>3, tag&7
	name, f := m.name, m.of(tag)
	if f.name != "" {
		name += "." + f.name
	}
	switch {
	case next < 0:
		return malformed(name, at, "the tag of a field is cut short or longer than ten bytes")
	case num == 0 || num > maxFieldNumber:
		return malformed(name, at, "a field has the number %d, outside 1 to %d", num, maxFieldNumber)
	case typ == typeGroupEnd:
		return malformed(name, at, "a group ends that did not start")
	case typ > typeFixed32:
		return malformed(name, at, "field %d has the wire type %d, which does not exist", num, typ)
	case !f.has(tag):
		return malformed(name, at, "the wire type is %d, which this field cannot have", typ)
	case typ == typeVarint:
		return malformed(name, at, "the number of field %d is cut short or longer than ten bytes", num)
	case typ == typeBytes:
		return malformed(name, at, "the contents of field %d are broken or run past the end of the message", num)
	default:
		return malformed(name, at, "the message ends inside field %d", num)
	}
}

// malformed is the error for bytes that are not the message they should be.
func malformed(where string, at int, format string, args ...any) error {
	e := Errorf(Invalid, "err-malformed-request", format, args...)
	return Errorf(Invalid, e.ID, "malformed remote write request: %s at byte %d: %s", where, at, e.Msg)
}
