package app

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/admin"
)

// provider is an identity provider that listens, with one key at a time.
type provider struct {
	t   *testing.T
	url string

	mu  sync.Mutex
	id  string
	key ed25519.PrivateKey
}

func startProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{t: t}
	p.rotate("first")
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": p.url, "jwks_uri": p.url + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		x := base64.RawURLEncoding.EncodeToString(p.key.Public().(ed25519.PublicKey))
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{{"kty": "OKP", "crv": "Ed25519", "kid": p.id, "x": x}}})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	p.url = s.URL
	return p
}

func (p *provider) rotate(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(p.t, err)
	p.id, p.key = id, key
}

// issue signs a token for an audience with claims of its own.
func (p *provider) issue(audience string, claims jwt.MapClaims) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := jwt.MapClaims{"iss": p.url, "aud": audience, "sub": "u1", "exp": time.Now().Add(time.Hour).Unix()}
	for name, value := range claims {
		all[name] = value
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, all)
	token.Header["kid"] = p.id
	text, err := token.SignedString(p.key)
	require.NoError(p.t, err)
	return text
}

// What a token of an identity provider lets somebody do, and what not.
func TestTokensOfAnIdentityProvider(t *testing.T) {
	p := startProvider(t)
	cfg := testConfig(t)
	cfg.Auth = tenant.AuthConfig{Mode: tenant.ModeToken, OIDC: tenant.OIDCConfig{Issuer: p.url, Audience: "hearth", Grants: []tenant.Grant{
		{Claims: map[string]string{"groups": "ops"}, Scopes: []string{"operator", "metrics:read"}},
		{Claims: map[string]string{"groups": "writers"}, TenantClaim: "org", Scopes: []string{"metrics:write"}},
		{TenantClaim: "org", Scopes: []string{"metrics:read"}, LabelClaims: map[string]string{"team": "teams"}},
	}}}
	a := start(t, cfg)
	with := func(token string) client { return client{t: t, app: a, token: token} }

	operator := with(p.issue("hearth", jwt.MapClaims{"groups": []string{"ops"}, "sub": "olga"}))
	_, operatorReads := neighbours(t, a, operator, "anna", "bert")
	operatorReads.as("anna|bert").must(http.StatusOK, http.MethodGet, "/prometheus/api/v1/query?query=shared", "", nil)
	operator.as("{}").must(http.StatusOK, http.MethodGet, "/prometheus/api/v1/query?query=shared", "", nil)
	var audit admin.AuditAnswer
	operator.must(http.StatusOK, http.MethodGet, "/admin/v1/audit", "", &audit)
	require.Equal(t, "subject olga", audit.Entries[0].By)

	writer := with(p.issue("hearth", jwt.MapClaims{"groups": "writers", "org": "anna", "teams": "payments"}))
	writer.must(http.StatusOK, http.MethodPost, "/api/v1/push", series(time.Now(), labels.FromStrings("__name__", "by_a_writer", "team", "payments")), nil)
	writer.must(http.StatusForbidden, http.MethodGet, "/prometheus/api/v1/labels", "", nil)
	writer.must(http.StatusForbidden, http.MethodGet, "/admin/v1/tenants", "", nil)
	writer.as("bert").must(http.StatusForbidden, http.MethodPost, "/api/v1/push", "", nil)

	one := with(p.issue("hearth", jwt.MapClaims{"org": "anna", "teams": []string{"payments"}}))
	status, _, text := one.do(http.MethodGet, "/prometheus/api/v1/query?query="+url.QueryEscape(`{__name__=~".+"}`), "")
	require.Equal(t, http.StatusOK, status, text)
	require.Contains(t, text, "by_a_writer")
	require.NotContains(t, text, "secret")
	require.NotContains(t, text, tenant.Label)

	both := with(p.issue("hearth", jwt.MapClaims{"org": []string{"bert", "anna"}, "teams": "payments"}))
	status, _, text = both.do(http.MethodGet, "/prometheus/api/v1/labels", "")
	require.Equal(t, http.StatusUnauthorized, status, "which of them? %s", text)
	for names, want := range map[string]int{"anna|bert": 200, "bert": 200, "anna|carl": 403, "carl": 403, "{}": 403} {
		status, _, text := both.as(names).do(http.MethodGet, "/prometheus/api/v1/query?query=shared", "")
		require.Equal(t, want, status, "%s: %s", names, text)
		require.NotContains(t, text, "secret")
	}
	_, _, text = both.as("anna|bert").do(http.MethodGet, "/prometheus/api/v1/query?query=shared", "")
	holdsOnly(t, text, "shared", []string{"anna", "bert"})

	for why, token := range map[string]string{
		"another audience": p.issue("grafana", jwt.MapClaims{"groups": "ops"}),
		"expired":          p.issue("hearth", jwt.MapClaims{"groups": "ops", "exp": time.Now().Add(-time.Hour).Unix()}),
		"another issuer":   startProvider(t).issue("hearth", jwt.MapClaims{"groups": "ops", "iss": p.url}),
	} {
		status, header, text := with(token).do(http.MethodGet, "/admin/v1/tenants", "")
		require.Equal(t, http.StatusUnauthorized, status, "%s: %s", why, text)
		require.Contains(t, text, "err-token-invalid")
		require.Len(t, header.Values("WWW-Authenticate"), 2)
	}
	status, _, text = with(p.issue("hearth", jwt.MapClaims{"org": "anna"})).do(http.MethodGet, "/prometheus/api/v1/labels", "")
	require.Equal(t, http.StatusForbidden, status)
	require.Contains(t, text, "err-token-claims")
	operator.must(http.StatusOK, http.MethodGet, "/config", "", nil)
}
