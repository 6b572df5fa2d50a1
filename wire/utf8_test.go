package wire

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestValidUTF8(t *testing.T) {
	t.Parallel()
	for n := range 80 {
		for at := range n {
			for _, c := range []string{"x", "\x7f", "\x80", "\xff", "ü", "\xe2\x82", "€"} {
				s := strings.Repeat("a", at) + c + strings.Repeat("b", n-at-1)
				require.Equal(t, utf8.ValidString(s), ValidUTF8(s), "%q", s)
				require.Equal(t, c == "x" || c == "\x7f", ascii(s), "%q", s)
			}
		}
	}
	require.True(t, ValidUTF8(""))
}
