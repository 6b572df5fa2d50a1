package wire

import (
	"encoding/binary"
	"unicode/utf8"
	"unsafe"
)

// ValidUTF8 is utf8.ValidString, faster for the short ASCII strings that names
// and values mostly are.
func ValidUTF8(s string) bool { return ascii(s) || utf8.ValidString(s) }

const notASCII = 0x8080808080808080

// ascii reports whether no byte of s has its high bit set.
func ascii(s string) bool {
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	if len(b) < 8 {
		var or byte
		for _, c := range b {
			or |= c
		}
		return or < 0x80
	}
	// The last eight bytes first; they may overlap with what the loops read.
	or := binary.LittleEndian.Uint64(b[len(b)-8:])
	for ; len(b) >= 32; b = b[32:] {
		or |= binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) |
			binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
	}
	for ; len(b) >= 8; b = b[8:] {
		or |= binary.LittleEndian.Uint64(b)
	}
	return or&notASCII == 0
}

func validUTF8(ls []Label) bool {
	for i := range ls {
		if !ValidUTF8(ls[i].Name) || !ValidUTF8(ls[i].Value) {
			return false
		}
	}
	return true
}
