package tenant

import (
	"context"
	"net/http"
	"net/http/httptest"
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

func TestMiddleware(t *testing.T) {
	var got ID
	h := Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		id, err := FromContext(r.Context())
		require.NoError(t, err)
		got = id
	}))
	for _, c := range []struct {
		header string
		code   int
	}{{"team", 200}, {" team ", 200}, {"", 401}, {"a/b", 400}, {"a|b", 400}} {
		got = ""
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(Header, c.header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, c.code, w.Code, "%q", c.header)
		require.Equal(t, c.code == 200, got == "team", "%q", c.header)
	}
	_, err := FromContext(context.Background())
	require.Equal(t, wire.Unauthenticated, wire.KindOf(err))
}

func TestLimitsOf(t *testing.T) {
	c := LimitsConfig{Defaults: DefaultLimits(), Tenants: map[ID]Limits{"big": {MaxSeries: 7}}}
	require.Equal(t, 7, c.Of("big").MaxSeries)
	require.Equal(t, DefaultLimits().MaxSeries, c.Of("other").MaxSeries)
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Of("other") }))
}
