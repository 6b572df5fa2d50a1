package tenant

import (
	"encoding/json"
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

// Limits of label sets are a list: one that is overridden leaves the others'
// alone, and one that cannot be is refused with its place.
func TestLimitsOfLabelSets(t *testing.T) {
	for text, want := range map[string]string{
		`[{"label_set": {"team": "a"}, "limits": {"max_series": 10}}]`: "",
		`[]`: "",
		`[{"label_set": {}, "limits": {"max_series": 10}}]`:                                                                      "limits_per_label_set[0].label_set: want at least one label",
		`[{"label_set": {"team": "a"}, "limits": {}}]`:                                                                           "limits_per_label_set[0].limits.max_series: want a number above 0, got 0",
		`[{"label_set": {"team": "a"}, "limits": {"max_series": 1}}, {"label_set": {"team": "a"}, "limits": {"max_series": 2}}]`: `limits_per_label_set[1].label_set: {team="a"} is there twice`,
		`[{"label_set": {"team": "a"}, "limits": {"max_serie": 1}}]`:                                                             "want a list of label sets with limits",
		`7`:    "want a list of label sets with limits",
		`null`: "want a list of label sets with limits",
		"[" + strings.Repeat(`{"label_set": {"a": "b"}, "limits": {"max_series": 1}},`, 100) + `{"label_set": {"a": "b"}, "limits": {"max_series": 1}}]`: "want at most 100 label sets, got 101",
	} {
		err := Overrides{"limits_per_label_set": json.RawMessage(text)}.Validate()
		if want == "" {
			require.NoError(t, err, text)
			continue
		}
		require.ErrorContains(t, err, want, text)
	}
	everyone := DefaultLimits()
	everyone.LabelSets = []LabelSet{{map[string]string{"team": "a"}, LabelSetLimits{1}}, {map[string]string{"team": "b"}, LabelSetLimits{2}}}
	own := everyone
	require.NoError(t, Overrides{"limits_per_label_set": json.RawMessage(`[{"label_set": {"team": "c"}, "limits": {"max_series": 10}}]`)}.apply(&own))
	require.Equal(t, `{team="a"}`, everyone.LabelSets[0].String())
	require.Equal(t, []LabelSet{{map[string]string{"team": "c"}, LabelSetLimits{10}}}, own.LabelSets)
}
