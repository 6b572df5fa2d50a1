package tenant

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/wire"
)

// doorOf is a door that tells who was let in.
func (w *world) doorOf(r *Registry, s Scope) func(header ...string) (int, string) {
	a, err := NewAuth(w.mode, r)
	require.NoError(w.t, err)
	h := a.Require(s)(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		ids, several, _ := AllFromContext(r.Context())
		policy, _ := json.Marshal(PolicyFrom(r.Context()))
		_, _ = fmt.Fprintln(out, ids, several, string(policy))
	}))
	return func(header ...string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		out := httptest.NewRecorder()
		h.ServeHTTP(out, r)
		return out.Code, out.Body.String()
	}
}

func basic(user, password string) string {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

func TestWaysToShowAToken(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	_, _, secret, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	_, operator, err := r.CreateToken(t.Context(), Token{Scopes: Scopes(MetricsRead)})
	require.NoError(t, err)
	ask := w.doorOf(r, MetricsRead)
	const auth = "Authorization"
	for _, c := range []struct {
		why    string
		header []string
		want   string
	}{
		{"bearer", []string{auth, "Bearer " + secret}, "acme"},
		{"in any case", []string{auth, "bearer " + secret}, "acme"},
		{"basic with the tenant", []string{auth, basic("acme", secret)}, "acme"},
		{"basic without", []string{auth, basic("", secret)}, "acme"},
		{"the header names the token's own", []string{auth, "Bearer " + secret, Header, "acme"}, "acme"},
		{"the header names another", []string{auth, "Bearer " + secret, Header, "other"}, "err-tenant-not-of-token"},
		{"the user names another", []string{auth, basic("other", secret)}, "err-tenant-not-of-token"},
		{"the user names another, the header not", []string{auth, basic("other", secret), Header, "acme"}, "err-tenant-not-of-token"},
		{"two headers", []string{auth, "Bearer " + secret, Header, "acme", Header, "other"}, "err-tenant-not-of-token"},
		{"several at once", []string{auth, "Bearer " + secret, Header, "acme|other"}, "err-tenant-not-of-token"},
		{"a path", []string{auth, "Bearer " + secret, Header, "acme/../other"}, "err-tenant-not-of-token"},
		{"nothing", nil, "err-token-missing"},
		{"the header alone", []string{Header, "acme"}, "err-token-missing"},
		{"an empty token", []string{auth, "Bearer "}, "err-token-missing"},
		{"another scheme", []string{auth, "Digest " + secret}, "err-token-missing"},
		{"cut off", []string{auth, "Bearer " + secret[:len(secret)-1]}, "err-token-invalid"},
		{"more behind", []string{auth, "Bearer " + secret + "a"}, "err-token-invalid"},
		{"another secret of the id", []string{auth, "Bearer " + forged(secret)}, "err-token-invalid"},
		{"an operator names none", []string{auth, "Bearer " + operator}, "err-tenant-missing"},
		{"an operator names one", []string{auth, "Bearer " + operator, Header, "acme"}, "acme"},
		{"an operator names nonsense", []string{auth, "Bearer " + operator, Header, "../acme"}, "err-tenant-invalid"},
	} {
		status, text := ask(c.header...)
		require.Contains(t, text, c.want, c.why)
		require.Equal(t, !strings.HasPrefix(c.want, "err-"), status == http.StatusOK, c.why)
		require.NotContains(t, text, secret, "an error never tells a secret")
	}
}

// forged is a well-formed token with the id of another.
func forged(secret string) string {
	id, _, _ := readToken(secret)
	other, _ := mintSecret(id)
	return other
}

func TestExpiredTokenIsRefused(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	now := time.Now()
	r.now = func() time.Time { return now }
	_, _, _, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	_, secret, err := r.CreateToken(t.Context(), Token{Tenant: "acme", Scopes: DataScopes, ExpiresAt: now.Add(time.Hour)})
	require.NoError(t, err)
	ask := w.doorOf(r, MetricsRead)
	status, _ := ask("Authorization", "Bearer "+secret)
	require.Equal(t, http.StatusOK, status)
	now = now.Add(time.Hour)
	status, text := ask("Authorization", "Bearer "+secret)
	require.Equal(t, http.StatusUnauthorized, status, text)
}

func TestWrongTokensAreSlowedDownRightOnesNot(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	now := time.Now()
	r.now = func() time.Time { return now }
	_, _, secret, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	ask := w.doorOf(r, MetricsRead)
	seen := map[int]int{}
	for range 200 {
		status, _ := ask("Authorization", "Bearer "+forged(secret))
		seen[status]++
	}
	require.Equal(t, map[int]int{http.StatusUnauthorized: attemptsAtOnce, http.StatusTooManyRequests: 200 - attemptsAtOnce}, seen)
	status, _ := ask("Authorization", "Bearer "+secret)
	require.Equal(t, http.StatusOK, status)
	now = now.Add(time.Minute)
	status, _ = ask("Authorization", "Bearer "+forged(secret))
	require.Equal(t, http.StatusUnauthorized, status)
}

func TestUnknownTenants(t *testing.T) {
	w := newWorld(t)
	w.mode.Mode, w.cfg.Unknown = ModeHeader, UnknownRefuse
	w.limits.Tenants = map[ID]Limits{"configured": DefaultLimits()}
	r := w.process()
	_, _, _, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	ask := w.doorOf(r, MetricsWrite)
	for id, want := range map[string]int{"acme": 200, "configured": 200, "nobody": 403} {
		status, _ := ask(Header, id)
		require.Equal(t, want, status, id)
	}
}

func TestTokensWaitForTheRegistryHeadersDoNot(t *testing.T) {
	w := newWorld(t)
	_, _, secret, err := w.process().CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	w.bucket.away.Store(true)
	r := w.process()
	status, text := w.doorOf(r, MetricsRead)("Authorization", "Bearer "+secret)
	require.Equal(t, http.StatusServiceUnavailable, status, text)
	w.mode.Mode = ModeHeader
	status, _ = w.doorOf(r, MetricsRead)(Header, "acme")
	require.Equal(t, http.StatusOK, status)
}

func TestPolicyIsInTheContext(t *testing.T) {
	w := newWorld(t)
	r := w.process()
	_, _, _, err := r.CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	_, secret, err := r.CreateToken(t.Context(), Token{Tenant: "acme", Scopes: Scopes(MetricsRead), LabelPolicy: `{team="payments"}`})
	require.NoError(t, err)
	for _, r := range []*Registry{r, w.process()} { // also when it was read from the bucket
		_, text := w.doorOf(r, MetricsRead)("Authorization", "Bearer "+secret)
		require.Contains(t, text, "payments")
	}
}

func TestTokenTextsAreTold(t *testing.T) {
	id := mintID(7)
	text, hash := mintSecret(id)
	require.Regexp(t, `^hearth_[0-9a-f]{18}_[a-z2-7]{58}$`, text, "what a scanner for leaked secrets looks for (docs/tenants.md)")
	got, gotHash, ok := readToken(text)
	require.True(t, ok)
	require.Equal(t, id, got)
	require.Equal(t, hash, gotHash)
	n, ok := shardOfToken(id)
	require.True(t, ok)
	require.Equal(t, 7, n)
	_, ok = shardOfToken("ff" + id[2:])
	require.False(t, ok)
}

func FuzzReadToken(f *testing.F) {
	text, _ := mintSecret(mintID(1))
	f.Add(text)
	f.Add("hearth_")
	f.Fuzz(func(t *testing.T, s string) {
		if id, _, ok := readToken(s); ok && !strings.HasPrefix(s, tokenPrefix+id+"_") {
			t.Errorf("%q has the id %q", s, id)
		}
	})
}

func TestErrorsHaveKinds(t *testing.T) {
	require.Equal(t, http.StatusConflict, wire.Conflict.HTTPStatus())
	require.Equal(t, http.StatusPreconditionFailed, wire.Changed.HTTPStatus())
}
