package tenant

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Several tenants are read by whoever may read each of them.
func TestSeveralTenantsAtTheDoor(t *testing.T) {
	w := newWorld(t)
	w.cfg.Unknown = UnknownRefuse
	r := w.process()
	secrets := map[ID]string{}
	for id, labels := range map[ID]map[string]string{
		"a": {"env": "prod", "team": "x"}, "b": {"env": "prod"}, "c": {"env": "test"}, "d": nil, "gone": {"env": "prod"}, "idle": {"env": "prod"}, "still": {"env": "still"},
	} {
		_, _, secret, err := r.CreateTenant(t.Context(), Tenant{ID: id, Labels: labels}, DataScopes)
		require.NoError(t, err)
		secrets[id] = secret
	}
	_, err := r.DeleteTenant(t.Context(), "gone", Any)
	require.NoError(t, err)
	for id, status := range map[ID]Status{"idle": Suspended, "still": ReadOnly} {
		_, err = r.UpdateTenant(t.Context(), id, Any, func(t *Tenant) error { t.Status = status; return nil })
		require.NoError(t, err)
	}
	_, operator, err := r.CreateToken(t.Context(), Token{Scopes: Scopes(MetricsRead) | Scopes(MetricsWrite) | Scopes(RulesRead)})
	require.NoError(t, err)
	long := strings.Repeat("x|", 5000) + "x"
	var many []string
	for n := range MaxTenants + 1 {
		many = append(many, fmt.Sprint(n))
	}
	for _, c := range []struct {
		token, names string
		scope        Scope
		want         string
	}{
		{operator, "a|b", MetricsRead, "[a b] true"},
		{operator, "b|a|b|a", MetricsRead, "[a b] true"},
		{operator, "a|a", MetricsRead, "[a] false"},
		{operator, "still|a", MetricsRead, "[a still] true"},
		{operator, `{env="prod"}`, MetricsRead, "[a b] true"},
		{operator, `{env="prod", team="x"}`, MetricsRead, "[a] true"},
		{operator, `{env=~"prod|test", team=""}`, MetricsRead, "[b c] true"},
		{operator, `{__tenant_id__=~".+"}`, MetricsRead, "[a b c d still] true"},
		{operator, `{__tenant_id__="d"}`, MetricsRead, "[d] true"},
		{operator, `{env="nowhere"}`, MetricsRead, "err-no-such-tenants"},
		{operator, `{}`, MetricsRead, "[a b c d still] true"},
		{operator, `{env="prod"`, MetricsRead, "err-tenant-invalid"},
		{operator, `{env="prod"}|c`, MetricsRead, "err-tenant-invalid"},
		{operator, `a|{env="prod"}`, MetricsRead, "err-tenant-invalid"},
		{operator, "a|", MetricsRead, "err-tenant-missing"},
		{operator, "|", MetricsRead, "err-tenant-missing"},
		{operator, "a||b", MetricsRead, "err-tenant-missing"},
		{operator, "a|../b", MetricsRead, "err-tenant-invalid"},
		{operator, "a| b", MetricsRead, "err-tenant-invalid"},
		{operator, "a|nobody", MetricsRead, "nobody: there is no such tenant (err-tenant-unknown)"},
		{operator, "a|idle", MetricsRead, "idle: the tenant is suspended; ask those who run Hearth (err-tenant-suspended)"},
		{operator, "gone|b", MetricsRead, "gone: the tenant is being deleted (err-tenant-deleting)"},
		{operator, long, MetricsRead, "there is no such tenant"},
		{operator, strings.Join(many, "|"), MetricsRead, "err-too-many-tenants"},
		{operator, "a|b", MetricsWrite, "err-several-tenants"},
		{operator, `{env="prod"}`, MetricsWrite, "err-several-tenants"},
		{operator, "a|a", MetricsWrite, "[a] false"},
		{operator, "a|b", RulesRead, "err-several-tenants"},
		{operator, "a|b", AlertsRead, "err-scope-missing"},
		{secrets["a"], "a|a", MetricsRead, "[a] false"},
		{secrets["a"], "a|b", MetricsRead, "err-tenant-not-of-token"},
		{secrets["a"], "b|a", MetricsRead, "err-tenant-not-of-token"},
		{secrets["a"], "a|", MetricsRead, "err-tenant-not-of-token"},
		{secrets["a"], "a|nobody", MetricsRead, "err-tenant-not-of-token"},
		{secrets["a"], `{team="x"}`, MetricsRead, "err-tenant-not-of-token"},
		{secrets["a"], `{__tenant_id__="a"}`, MetricsRead, "err-tenant-not-of-token"},
	} {
		status, text := w.doorOf(r, c.scope)("Authorization", "Bearer "+c.token, Header, c.names)
		require.Contains(t, text, c.want, "%.100s", c.names)
		require.Equal(t, !strings.Contains(c.want, "err-") && c.names != long, status == http.StatusOK, "%.100s: %s", c.names, text)
		if c.token == secrets["a"] {
			require.NotContains(t, text, "nobody", "what there is, is not told")
		}
	}
	_, text := w.doorOf(r, MetricsRead)("Authorization", basic("a|b", operator))
	require.Contains(t, text, "[a b] true")
	_, text = w.doorOf(r, MetricsRead)("Authorization", basic("a|b", secrets["a"]))
	require.Contains(t, text, "err-tenant-not-of-token")
}

func TestAPolicyIsOfSeriesNotOfTenants(t *testing.T) {
	r := newWorld(t).process()
	for _, policy := range []string{`{__tenant_id__="a"}`, `{team="x", original___tenant_id__!="a"}`} {
		_, _, err := r.CreateToken(t.Context(), Token{Scopes: Scopes(MetricsRead), LabelPolicy: policy})
		var fe *FieldError
		require.ErrorAs(t, err, &fe)
		require.Equal(t, "label_policy", fe.Field)
	}
}

// BenchmarkSelectedTenants is what a selector of tenants costs each request.
func BenchmarkSelectedTenants(b *testing.B) {
	w := newWorld(b)
	w.fill(100_000)
	r := w.process()
	n, err := parseNames(`{plan="no-such"}`)
	require.NoError(b, err)
	for b.Loop() {
		_, err = r.selected(n.selector)
	}
	require.Error(b, err)
}
