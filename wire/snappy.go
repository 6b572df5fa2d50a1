package wire

import "github.com/klauspost/compress/s2"

const pageSize = 4 << 10

// newBody makes a buffer to Decompress into. The decoder is in assembly, and the
// collector, and with it all other requests, waits until it is through. So the
// pages of the buffer, each of which costs a call of the kernel, are there before
// it begins.
func newBody(size int) []byte {
	b := make([]byte, size)
	for k := 0; k < size; k += pageSize {
		b[k] = 0
	}
	return b
}

// Decompress decodes a snappy block into dst, or into a new buffer where dst is
// too small.
func Decompress(dst, src []byte) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return nil, err
	}
	if n > cap(dst) {
		dst = newBody(n)
	}
	return s2.Decode(dst[:cap(dst)], src)
}
