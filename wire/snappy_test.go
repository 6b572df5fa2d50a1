package wire

import (
	"bytes"
	"testing"

	"github.com/golang/snappy"
	"github.com/stretchr/testify/require"
)

func TestDecompress(t *testing.T) {
	var dst []byte
	for _, size := range []int{0, 1, pageSize - 1, pageSize, 3*pageSize + 1, 10 << 20, 5} {
		want := bytes.Repeat([]byte("Hearth"), size/6+1)[:size]
		got, err := Decompress(dst, snappy.Encode(nil, want))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "%d bytes", size)
		if size <= cap(dst) && size > 0 {
			require.Same(t, &dst[:1][0], &got[0], "a buffer that is large enough is used")
		}
		dst = got
	}
	_, err := Decompress(nil, []byte("\xff\xff\xff\xff\xff\xff"))
	require.Error(t, err)
	_, err = Decompress(nil, []byte("\x04nope"))
	require.Error(t, err)
}
