package storegateway

import (
	"context"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// TestMatchersThatWait has a label with thousands of values. What is not looked
// up is tested on the few series that another matcher leaves, where there is
// one, and the answers are Prometheus'.
func TestMatchersThatWait(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	dir := makeBlock(t, t.TempDir(), blockOptions{series: 3000, samples: 4, floatsOnly: true})
	upload(t, b, bucket.TenantHome(string(me)), dir)
	blocks := []*tsdb.Block{openOracle(t, dir)}
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	is := func(kind labels.MatchType, name, value string) *labels.Matcher {
		return labels.MustNewMatcher(kind, name, value)
	}
	metric := is(labels.MatchEqual, "__name__", "metric_3") // 231 series
	for _, c := range []struct {
		ms    []*labels.Matcher
		later int
	}{
		{[]*labels.Matcher{metric, is(labels.MatchRegexp, "instance", ".*7.*")}, 1},
		{[]*labels.Matcher{is(labels.MatchRegexp, "instance", ".*7.*"), metric, is(labels.MatchNotRegexp, "instance", "host-0.*")}, 2},
		{[]*labels.Matcher{metric, is(labels.MatchNotEqual, "instance", "host-00003")}, 1},
		{[]*labels.Matcher{metric, is(labels.MatchRegexp, "instance", ".*")}, 1},
		{[]*labels.Matcher{metric, is(labels.MatchEqual, "instance", "")}, 1},
		{[]*labels.Matcher{metric, is(labels.MatchRegexp, "instance", "|host-00003")}, 1},
		{[]*labels.Matcher{metric, is(labels.MatchRegexp, "instance", "host-00003|host-00016|x")}, 0},               // looked up
		{[]*labels.Matcher{metric, is(labels.MatchRegexp, "zone", "a.*"), is(labels.MatchNotEqual, "job", "x")}, 0}, // few values
		{[]*labels.Matcher{metric, is(labels.MatchNotEqual, "absent", "x")}, 0},
		{[]*labels.Matcher{is(labels.MatchRegexp, "instance", ".*77.*")}, 0},                                         // nothing to begin with
		{[]*labels.Matcher{is(labels.MatchEqual, "job", "job-1"), is(labels.MatchRegexp, "instance", ".*3")}, 1},     // 429 series
		{[]*labels.Matcher{is(labels.MatchEqual, "zone", "a"), is(labels.MatchRegexp, "instance", ".*3")}, 0},        // 1,000
		{[]*labels.Matcher{is(labels.MatchEqual, "__name__", "none"), is(labels.MatchRegexp, "instance", ".*3")}, 1}, // none
		{[]*labels.Matcher{is(labels.MatchEqual, "__name__", "none"), is(labels.MatchNotEqual, "instance", "host-00003")}, 1},
	} {
		what := describe(c.ms)
		own := blocksOf(t, g, me, 0, 10*step).Own
		held, err := g.store.acquire(t.Context(), []blockKey{{bucket.TenantHome(string(me)), own[0]}})
		require.NoError(t, err)
		_, later, err := held[0].divide(t.Context(), c.ms)
		require.NoError(t, err)
		require.Len(t, later, c.later, what)
		g.store.release(held[0])

		q, err := g.Querier(t.Context(), me, 0, 10*step, wire.Blocks{Own: own})
		require.NoError(t, err)
		oracle := oracleQuerier(t, blocks, 0, 10*step)
		hints := &storage.SelectHints{Start: 0, End: 10 * step}
		want, err := dump(oracle.Select(context.Background(), true, hints, slices.Clone(c.ms)...), true)
		require.NoError(t, err)
		got, err := dump(q.Select(context.Background(), true, hints, c.ms...), true)
		require.NoError(t, err)
		require.Equal(t, want, got, what)

		limited := &storage.SelectHints{Start: 0, End: 10 * step, Limit: 5}
		n := 0
		for set := q.Select(context.Background(), true, limited, c.ms...); set.Next(); n++ {
			require.True(t, matchAll(set.At().Labels(), c.ms), what)
		}
		require.GreaterOrEqual(t, n, min(5, len(want)/5), what)

		for _, name := range []string{"instance", "__name__", "zone"} {
			w, _, err := oracle.LabelValues(t.Context(), name, nil, slices.Clone(c.ms)...)
			require.NoError(t, err)
			v, _, err := q.LabelValues(t.Context(), name, nil, c.ms...)
			require.NoError(t, err)
			require.ElementsMatch(t, w, v, "%s of %s", name, what)
		}
		require.NoError(t, q.Close())
		require.NoError(t, oracle.Close())
	}
}
