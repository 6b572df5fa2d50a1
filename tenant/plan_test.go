package tenant

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/wire"
)

// A plan of the configuration counts before one of the API, and the API leaves
// it alone.
func TestPlansOfTheConfiguration(t *testing.T) {
	w := newWorld(t)
	before := w.process()
	for _, name := range []string{"small", "other"} {
		_, err := before.PutPlan(t.Context(), Plan{Name: name, Limits: Overrides{"max_series": json.RawMessage("1")}}, Any)
		require.NoError(t, err)
	}
	small := DefaultLimits()
	small.MaxSeries, small.MaxQueryLength = 100, model.Duration(24*time.Hour)
	w.limits.Plans = map[string]Limits{"small": small, "large": DefaultLimits()}
	r := w.process()

	want := []Plan{
		{Name: "large", Source: PlanOfConfig, Limits: Overrides{}},
		{Name: "other", Source: PlanOfAPI, Limits: Overrides{"max_series": json.RawMessage("1")}},
		{Name: "small", Source: PlanOfConfig, Limits: Overrides{"max_series": json.RawMessage("100"), "max_query_length": json.RawMessage(`"1d"`)}},
	}
	have := r.Plans()
	require.NotZero(t, have[1].Version)
	have[1].Version, have[1].UpdatedAt = 0, time.Time{}
	require.Equal(t, want, have)
	p, err := r.Plan("small")
	require.NoError(t, err)
	require.Equal(t, want[2], p)

	for _, name := range []string{"small", "large"} {
		_, err = r.PutPlan(t.Context(), Plan{Name: name}, Any)
		require.ErrorContains(t, err, "err-plan-of-config")
		require.Equal(t, wire.Conflict, wire.KindOf(err))
		require.ErrorContains(t, r.DeletePlan(t.Context(), name, Any), "err-plan-of-config")
	}
	_, _, _, err = r.CreateTenant(t.Context(), Tenant{ID: "a", Plan: "small", Limits: Overrides{"max_metadata": json.RawMessage("3")}}, DataScopes)
	require.NoError(t, err)
	_, _, _, err = r.CreateTenant(t.Context(), Tenant{ID: "b", Plan: "large"}, DataScopes)
	require.NoError(t, err)
	require.Equal(t, 100, r.Limits("a").MaxSeries)
	require.Equal(t, 3, r.Limits("a").MaxMetadata)
	require.Equal(t, DefaultLimits(), *r.Limits("b"))
	e := r.EffectiveLimits("a")
	require.Equal(t, EffectiveLimit{100, FromPlan}, e["max_series"])
	require.Equal(t, EffectiveLimit{3, FromTenant}, e["max_metadata"])
	require.Equal(t, FromDefaults, e["max_exemplar_labels_length"].Source)

	// Where the configuration has it no more, the API's is there again.
	w.limits.Plans = nil
	require.Equal(t, 1, w.process().Limits("a").MaxSeries)
}

func TestNamesOfPlans(t *testing.T) {
	c := LimitsConfig{Plans: map[string]Limits{"fine-1.0_x": {}}}
	require.NoError(t, c.CheckPlans())
	for _, name := range []string{"", "a/b", "-a", "a b"} {
		c.Plans = map[string]Limits{name: {}}
		require.ErrorContains(t, c.CheckPlans(), "limits.plans")
	}
}
