package tenant

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/wire"
)

func TestCreateIsSeenAtOnceHereAndByWhoStartsLater(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	made, token, secret, err := r.CreateTenant(t.Context(), Tenant{ID: "acme", DisplayName: "Acme", Labels: map[string]string{"env": "prod"}}, DataScopes)
	require.NoError(t, err)
	require.Equal(t, Active, made.Status)
	require.NotZero(t, made.Version)
	for _, r := range []*Registry{r, w.process()} {
		have, ok := r.Tenant("acme")
		require.True(t, ok)
		require.Equal(t, made, have)
		e, err := r.identify(secret)
		require.NoError(t, err)
		require.Equal(t, token.ID, e.ID)
		require.Equal(t, ID("acme"), e.Token.Tenant)
	}
	_, ok := r.Tenant("other")
	require.False(t, ok)
}

func TestCreateIsIdempotent(t *testing.T) {
	w := newWorld(t)
	r, other := w.process(), w.process()
	want := Tenant{ID: "acme", Limits: Overrides{"max_series": json.RawMessage("7")}}
	made, _, _, err := r.CreateTenant(t.Context(), want, DataScopes)
	require.NoError(t, err)
	for _, again := range []*Registry{r, other} { // other has not heard of it
		have, token, secret, err := again.CreateTenant(t.Context(), want, DataScopes)
		require.NoError(t, err)
		require.Equal(t, made, have)
		require.Nil(t, token)
		require.Empty(t, secret)
	}
	want.DisplayName = "another"
	_, _, _, err = r.CreateTenant(t.Context(), want, DataScopes)
	require.Equal(t, wire.Conflict, wire.KindOf(err))
	require.Len(t, r.Tokens(Owner{Tenant: "acme"}), 1)
}

// Where the answer of the bucket is lost, the request is sent again and meets
// what it has stored itself.
func TestCreateWithALostAnswerReturnsTheSecretThatCounts(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	w.bucket.lost.Store(1)
	_, _, secret, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	for _, r := range []*Registry{r, w.process()} {
		_, err = r.identify(secret)
		require.NoError(t, err)
		require.Len(t, r.Tokens(Owner{Tenant: "acme"}), 1)
	}
}

// A change is one write: with the bucket gone at any moment there is all of it
// or nothing.
func TestNothingIsHalfDone(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	w.bucket.away.Store(true)
	_, _, _, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.ErrorIs(t, err, errAway)
	w.bucket.away.Store(false)
	for _, r := range []*Registry{r, w.process()} {
		_, ok := r.Tenant("acme")
		require.False(t, ok)
		require.Empty(t, r.Tokens(Owner{All: true}))
	}
}

func TestTwoOperatorsAtOnce(t *testing.T) {
	w := newWorld(t)
	one, two := w.process(), w.process()
	made, _, _, err := one.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, r := range []*Registry{one, two} {
		wg.Go(func() {
			_, errs[i] = r.UpdateTenant(context.Background(), "acme", made.Version, func(x *Tenant) error {
				x.DisplayName = fmt.Sprint("of ", i)
				return nil
			})
		})
	}
	wg.Wait()
	if errs[0] != nil {
		errs[0], errs[1] = errs[1], errs[0]
	}
	require.NoError(t, errs[0])
	require.Equal(t, wire.Changed, wire.KindOf(errs[1]), "%v", errs[1])
}

// Many processes that change tenants of the same shards lose nothing.
func TestConcurrentChangesAreAllKept(t *testing.T) {
	w := newWorld(t)
	const each = 20
	var wg sync.WaitGroup
	for p := range 3 {
		r := w.process()
		wg.Go(func() {
			for i := range each {
				_, _, err := r.CreateToken(context.Background(), Token{Name: fmt.Sprintf("%d-%d", p, i), Scopes: Scopes(Operator)})
				if !assertNoError(t, err) {
					return
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, w.process().Tokens(Owner{All: true}), 3*each)
}

func TestDeleteUndeleteRemove(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	now := time.Now()
	r.now = func() time.Time { return now }
	_, _, secret, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	gone, err := r.DeleteTenant(t.Context(), "acme", Any)
	require.NoError(t, err)
	require.Equal(t, Deleting, gone.Status)
	require.Empty(t, r.Doomed(), "it can still be undone")
	require.Equal(t, wire.Conflict, wire.KindOf(r.Removed(t.Context(), "acme")))
	_, _, _, err = r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.Equal(t, wire.Conflict, wire.KindOf(err), "its data is still there")
	again, err := r.DeleteTenant(t.Context(), "acme", Any)
	require.NoError(t, err)
	require.Equal(t, gone, again)

	back, err := r.Undelete(t.Context(), "acme", gone.Version)
	require.NoError(t, err)
	require.Equal(t, Active, back.Status)
	require.Nil(t, back.Deletion)

	_, err = r.DeleteTenant(t.Context(), "acme", Any)
	require.NoError(t, err)
	now = now.Add(2 * time.Hour)
	require.Equal(t, []ID{"acme"}, slices.Collect(maps.Keys(r.Doomed())))
	_, err = r.Undelete(t.Context(), "acme", Any)
	require.Equal(t, wire.Conflict, wire.KindOf(err))
	require.NoError(t, r.Removed(t.Context(), "acme"))
	require.NoError(t, r.Removed(t.Context(), "acme"), "whoever was killed before it heard the answer asks again")
	_, ok := r.Tenant("acme")
	require.False(t, ok)
	_, err = r.identify(secret)
	require.Error(t, err)
	require.Empty(t, w.process().Tokens(Owner{All: true}))
}

func TestLimitsAreDefaultsThenPlanThenOverrides(t *testing.T) {
	w := newWorld(t)
	big := DefaultLimits()
	big.MaxSeries = 5
	w.limits.Tenants = map[ID]Limits{"configured": big}
	r := w.process()
	_, err := r.PutPlan(t.Context(), Plan{Name: "small", Limits: Overrides{"max_series": json.RawMessage("100"), "ingestion_rate": json.RawMessage("10")}}, Any)
	require.NoError(t, err)
	_, _, _, err = r.CreateTenant(t.Context(), Tenant{ID: "a", Plan: "small", Limits: Overrides{"max_series": json.RawMessage("200"), "max_query_length": json.RawMessage(`"30d"`)}}, DataScopes)
	require.NoError(t, err)
	_, _, _, err = r.CreateTenant(t.Context(), Tenant{ID: "b", Plan: "small"}, DataScopes)
	require.NoError(t, err)

	l := r.Limits("a")
	require.Equal(t, 200, l.MaxSeries)
	require.Equal(t, 10.0, l.IngestionRate)
	require.Equal(t, 30*24*time.Hour, time.Duration(l.MaxQueryLength))
	require.Equal(t, 100, r.Limits("b").MaxSeries)
	require.Equal(t, DefaultLimits().MaxSeries, r.Limits("unknown").MaxSeries)
	require.Equal(t, 5, r.Limits("configured").MaxSeries)
	e := r.EffectiveLimits("a")
	require.Equal(t, EffectiveLimit{200, FromTenant}, e["max_series"])
	require.Equal(t, EffectiveLimit{10.0, FromPlan}, e["ingestion_rate"])
	require.Equal(t, EffectiveLimit{DefaultLimits().MaxMetadata, FromDefaults}, e["max_metadata"])
	require.Equal(t, EffectiveLimit{5, FromTenant}, r.EffectiveLimits("configured")["max_series"])

	_, err = r.PutPlan(t.Context(), Plan{Name: "small", Limits: Overrides{"max_series": json.RawMessage("101"), "ingestion_rate": json.RawMessage("11")}}, Any)
	require.NoError(t, err)
	require.Equal(t, 11.0, r.Limits("a").IngestionRate)
	require.Equal(t, 101, r.Limits("b").MaxSeries)
	require.Zero(t, testing.AllocsPerRun(100, func() { r.Limits("a"); r.Limits("b"); r.Limits("unknown") }))
	require.Equal(t, wire.Conflict, wire.KindOf(r.DeletePlan(t.Context(), "small", Any)))
}

func TestFieldsAreNamed(t *testing.T) {
	r := newWorld(t).process()
	for field, x := range map[string]Tenant{
		"id":                      {ID: ""},
		"id ":                     {ID: "a/b"},
		"plan":                    {ID: "a", Plan: "none"},
		"labels.9":                {ID: "a", Labels: map[string]string{"9": ""}},
		"limits.max_sheep":        {ID: "a", Limits: Overrides{"max_sheep": json.RawMessage("1")}},
		"limits.max_series":       {ID: "a", Limits: Overrides{"max_series": json.RawMessage("-1")}},
		"limits.own_head":         {ID: "a", Limits: Overrides{"own_head": json.RawMessage("1")}},
		"limits.max_query_length": {ID: "a", Limits: Overrides{"max_query_length": json.RawMessage("1")}},
	} {
		_, _, _, err := r.CreateTenant(t.Context(), x, DataScopes)
		var fe *FieldError
		require.ErrorAs(t, err, &fe, field)
		require.Contains(t, field, fe.Field)
		require.Equal(t, wire.Invalid, wire.KindOf(err))
	}
	for field, x := range map[string]Token{
		"scopes":       {},
		"scopes ":      {Tenant: "a", Scopes: Scopes(Operator)},
		"scopes  ":     {Scopes: Scopes(RulesWrite), LabelPolicy: `{a="b"}`},
		"label_policy": {Scopes: Scopes(MetricsRead), LabelPolicy: `sum(a)`},
		"expires_at":   {Scopes: Scopes(MetricsRead), ExpiresAt: time.Now().Add(-time.Minute)},
		"tenant":       {Scopes: Scopes(MetricsRead), Tenant: "nobody"},
	} {
		_, _, err := r.CreateToken(t.Context(), x)
		var fe *FieldError
		require.ErrorAs(t, err, &fe, field)
		require.Contains(t, field, fe.Field)
	}
}

func TestListIsInOrderAndInPages(t *testing.T) {
	r := newWorld(t).process()
	for i := range 25 {
		_, _, _, err := r.CreateTenant(t.Context(), Tenant{ID: ID(fmt.Sprintf("t%02d", i)), Labels: map[string]string{"even": fmt.Sprint(i%2 == 0)}}, DataScopes)
		require.NoError(t, err)
	}
	var got []ID
	for after := ID(""); ; {
		page := r.Tenants(Filter{Labels: map[string]string{"even": "true"}}, after, 5)
		for _, x := range page {
			got = append(got, x.ID)
		}
		if len(page) < 5 {
			break
		}
		after = page[4].ID
	}
	require.Len(t, got, 13)
	require.IsIncreasing(t, got)
	require.Empty(t, r.Tenants(Filter{Status: Suspended}, "", 5))
	require.Len(t, r.Tenants(Filter{Prefix: "t1"}, "", 50), 10)
}

func TestLastStateIsKnownWhileTheBucketIsAway(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	r := w.process(dir)
	_, _, secret, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	require.NoError(t, services.StopAndAwaitTerminated(t.Context(), r))

	w.bucket.away.Store(true)
	r = w.process(dir)
	require.True(t, r.Known())
	_, err = r.identify(secret)
	require.NoError(t, err)
	_, err = r.DeleteTenant(t.Context(), "acme", Any)
	require.ErrorIs(t, err, errAway)
	require.False(t, w.process().Known(), "the very first start")

	w.bucket.away.Store(false)
	_, err = r.DeleteTenant(t.Context(), "acme", Any)
	require.NoError(t, err)
}

func TestFirstOperatorTokenIsInAFileOfItsOwner(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	r := w.process(dir)
	file := filepath.Join(dir, "operator-token")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	e, err := r.identify(string(text[:len(text)-1]))
	require.NoError(t, err)
	require.Equal(t, Scopes(Operator), e.Scopes)

	other := t.TempDir()
	w.process(other)
	require.NoFileExists(t, filepath.Join(other, "operator-token"), "there is one already")
	require.Len(t, r.Tokens(Owner{All: true}), 1)
}

func TestLookupsDoNotAskTheBucket(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	_, _, secret, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	before := w.bucket.asked.Load()
	for range 1000 {
		_, err := r.identify(secret)
		require.NoError(t, err)
		r.Limits("acme")
		_, _ = r.Tenant("acme")
	}
	require.Equal(t, before, w.bucket.asked.Load())
}

func TestAuditHasEveryChangeOnce(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	ctx := WithActor(t.Context(), "somebody")
	const n = 230
	for i := range n {
		_, _, err := r.CreateToken(ctx, Token{Name: fmt.Sprint(i), Scopes: Scopes(Operator)})
		require.NoError(t, err)
	}
	_, _, _, err := r.CreateTenant(ctx, Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	entries, err := w.process().Audit(t.Context(), "", time.Time{}, time.Now())
	require.NoError(t, err)
	require.Len(t, entries, n+1)
	ids := map[string]bool{}
	for _, e := range entries {
		require.False(t, ids[e.ID])
		ids[e.ID] = true
		require.Equal(t, "somebody", e.By)
	}
	of, err := r.Audit(t.Context(), "acme", time.Time{}, time.Now())
	require.NoError(t, err)
	require.Len(t, of, 1)
	require.Equal(t, "tenant.create", of[0].Action)
	require.LessOrEqual(t, len(r.shards[sharedShard].Load().audit), auditKept)
}

func assertNoError(t *testing.T, err error) bool {
	if err != nil {
		t.Errorf("%v", err)
	}
	return err == nil
}
