package tenant

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseID(t *testing.T) {
	for _, c := range []struct {
		in   string
		kind wire.Kind
		ok   bool
	}{
		{"a", 0, true},
		{"team-1.prod_eu!*'()", 0, true},
		{strings.Repeat("x", 150), 0, true},
		{"_", 0, true},
		{"...", 0, true},
		{"", wire.Unauthenticated, false},
		{strings.Repeat("x", 151), wire.Invalid, false},
		{".", wire.Invalid, false},
		{"..", wire.Invalid, false},
		{"__hearth__", wire.Invalid, false},
		{"__markers__", wire.Invalid, false},
		{"__mimir_cluster", wire.Invalid, false},
		{"user-index.json.gz", wire.Invalid, false},
		{"a/b", wire.Invalid, false},
		{`a\b`, wire.Invalid, false},
		{"a b", wire.Invalid, false},
		{"a|b", wire.Invalid, false},
		{"a\x00", wire.Invalid, false},
		{"ä", wire.Invalid, false},
		{"a\n", wire.Invalid, false},
	} {
		id, err := ParseID(c.in)
		if c.ok {
			require.NoError(t, err, "%q", c.in)
			require.Equal(t, ID(c.in), id)
			continue
		}
		require.Error(t, err, "%q", c.in)
		require.Equal(t, c.kind, wire.KindOf(err), "%q", c.in)
	}
}

func TestLimitsOf(t *testing.T) {
	c := LimitsConfig{Defaults: DefaultLimits(), Tenants: map[ID]Limits{"big": {MaxSeries: 7}}}
	require.Equal(t, 7, c.Of("big").MaxSeries)
	require.Equal(t, DefaultLimits().MaxSeries, c.Of("other").MaxSeries)
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Of("other") }))
}
