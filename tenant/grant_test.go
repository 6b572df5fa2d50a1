package tenant

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func claimsOf(t *testing.T, text string) map[string]any {
	t.Helper()
	var claims map[string]any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	require.NoError(t, dec.Decode(&claims))
	return claims
}

func TestWhatClaimsGrant(t *testing.T) {
	cfg := AuthConfig{Mode: ModeToken, OIDC: OIDCConfig{Issuer: "https://id", Audience: "hearth", Grants: []Grant{
		{Claims: map[string]string{"groups": "ops", "mfa": "true"}, Scopes: []string{"operator", "metrics:read"}},
		{Claims: map[string]string{"realm.roles": "auditor"}, Tenants: []ID{"a", "b"}, Scopes: []string{"metrics:read"}, LabelPolicy: `{audit="yes"}`},
		{Claims: map[string]string{"kind": "7"}, TenantClaim: "https://claims.example.com/tenant", Scopes: []string{"metrics:read", "metrics:write"}, LabelClaims: map[string]string{"team": "teams", "env": "env"}},
		{Claims: map[string]string{"kind": "8"}, TenantClaim: "org.ids", Scopes: []string{"metrics:write"}},
	}}}
	require.NoError(t, cfg.Validate())
	var grants []grant
	for i := range cfg.OIDC.Grants {
		g, err := cfg.OIDC.Grants[i].compile()
		require.NoError(t, err)
		grants = append(grants, g)
	}
	for claims, want := range map[string]string{
		`{"sub":"s","groups":["dev","ops"],"mfa":true}`:                                                     "[] [metrics:read operator] []",
		`{"sub":"s","groups":"ops","mfa":"true","realm":{"roles":"auditor"}}`:                               "[] [metrics:read operator] []",
		`{"sub":"s","groups":["ops"]}`:                                                                      "none",
		`{"sub":"s","groups":["ops2"],"mfa":true}`:                                                          "none",
		`{"sub":"s","groups":[["ops"]],"mfa":true}`:                                                         "none",
		`{"sub":"s","groups":{"ops":1},"mfa":true}`:                                                         "none",
		`{"sub":"s","realm":{"roles":["auditor"]}}`:                                                         `[a b] [metrics:read] [audit="yes"]`,
		`{"sub":"s","realm.roles":"auditor"}`:                                                               `[a b] [metrics:read] [audit="yes"]`,
		`{"sub":"s","realm":"auditor"}`:                                                                     "none",
		`{"realm":{"roles":["auditor"]}}`:                                                                   "err-token-claims",
		`{"sub":"","realm":{"roles":["auditor"]}}`:                                                          "err-token-claims",
		`{"sub":["a","b"],"realm":{"roles":["auditor"]}}`:                                                   "err-token-claims",
		`{"sub":"s","kind":7,"https://claims.example.com/tenant":"c","teams":["x","y.z"],"env":"e"}`:        `[c] [metrics:write metrics:read] [env="e" team=~"x|y\\.z"]`,
		`{"sub":"s","kind":7,"https://claims.example.com/tenant":"c","teams":["x\"} or {a=\"b"],"env":"e"}`: `[c] [metrics:write metrics:read] [env="e" team="x\"} or {a=\"b"]`,
		`{"sub":"s","kind":7,"https://claims.example.com/tenant":"c","teams":[""],"env":"e"}`:               "err-token-claims",
		`{"sub":"s","kind":7,"https://claims.example.com/tenant":"c","teams":["","x"],"env":"e"}`:           `[c] [metrics:write metrics:read] [env="e" team="x"]`,
		`{"sub":"s","kind":7,"https://claims.example.com/tenant":"c","teams":["x"]}`:                        "err-token-claims",
		`{"sub":"s","kind":7,"teams":["x"],"env":"e"}`:                                                      "err-token-claims",
		`{"sub":"s","kind":8,"org":{"ids":["b","a","b"]}}`:                                                  "[a b] [metrics:write] []",
		`{"sub":"s","kind":8,"org":{"ids":[]}}`:                                                             "err-token-claims",
		`{"sub":"s","kind":8,"org":{"ids":["a","../b"]}}`:                                                   "err-token-claims",
		`{"sub":"s","kind":8,"org":{"ids":["a|b"]}}`:                                                        "err-token-claims",
		`{"sub":"s","kind":8,"org":{"ids":[""]}}`:                                                           "err-token-claims",
		`{"sub":"s","kind":8,"org":{"ids":null}}`:                                                           "err-token-claims",
		`{"sub":"s"}`: "none",
	} {
		got := "none"
		if g := grantOf(grants, claimsOf(t, claims)); g != nil {
			p, err := g.principal(claimsOf(t, claims))
			if err != nil {
				require.ErrorContains(t, err, want, claims)
				continue
			}
			require.Equal(t, "subject s", p.Name())
			require.False(t, p.Trusted())
			got = fmt.Sprint(p.tenants, " ", p.scopes.Names(), " ", p.policy)
		}
		require.Equal(t, want, got, claims)
	}
	require.Len(t, grants[1].policy, 1, "one request's policy is not another's")
}

func TestGrantsThatCannotBe(t *testing.T) {
	good := Grant{Tenants: []ID{"a"}, Scopes: []string{"metrics:read"}}
	base := AuthConfig{Mode: ModeToken, OIDC: OIDCConfig{Issuer: "https://id", Audience: "hearth", Grants: []Grant{good}}}
	require.NoError(t, base.Validate())
	for want, change := range map[string]func(*AuthConfig){
		"oidc.issuer: needs mode token":       func(c *AuthConfig) { c.Mode = ModeHeader },
		"oidc.issuer: must not be empty":      func(c *AuthConfig) { c.OIDC.Issuer = "" },
		"oidc.issuer: want an https URL":      func(c *AuthConfig) { c.OIDC.Issuer = "http://id.example.com" },
		"oidc.audience":                       func(c *AuthConfig) { c.OIDC.Audience = "" },
		"oidc.grants[1].scopes: must not be":  func(c *AuthConfig) { c.OIDC.Grants = append(c.OIDC.Grants, Grant{Tenants: []ID{"a"}}) },
		"oidc.grants[0].scopes: scope \"x\"":  func(c *AuthConfig) { c.OIDC.Grants = []Grant{{Scopes: []string{"x"}}} },
		"oidc.grants[0].tenants: want either": func(c *AuthConfig) { c.OIDC.Grants = []Grant{{Scopes: []string{"metrics:read"}}} },
		"grants[0].tenants: want": func(c *AuthConfig) {
			c.OIDC.Grants = []Grant{{Tenants: []ID{"a"}, TenantClaim: "t", Scopes: []string{"metrics:read"}}}
		},
		"grants[0].tenants: tenant id": func(c *AuthConfig) {
			c.OIDC.Grants = []Grant{{Tenants: []ID{"a/b"}, Scopes: []string{"metrics:read"}}}
		},
		"operator is not for a grant": func(c *AuthConfig) { c.OIDC.Grants = []Grant{{Tenants: []ID{"a"}, Scopes: []string{"operator"}}} },
		"narrowed by labels": func(c *AuthConfig) {
			c.OIDC.Grants = []Grant{{Scopes: []string{"operator"}, LabelClaims: map[string]string{"a": "b"}}}
		},
		"grants[0].scopes: a grant": func(c *AuthConfig) {
			c.OIDC.Grants = []Grant{{Tenants: []ID{"a"}, Scopes: []string{"tenant:admin"}, LabelPolicy: `{a="b"}`}}
		},
		"grants[0].label_policy: want a": func(c *AuthConfig) {
			c.OIDC.Grants = []Grant{{Tenants: []ID{"a"}, Scopes: []string{"metrics:read"}, LabelPolicy: `{`}}
		},
		"grants[0].label_policy: __tenant": func(c *AuthConfig) {
			c.OIDC.Grants = []Grant{{Tenants: []ID{"a"}, Scopes: []string{"metrics:read"}, LabelPolicy: `{__tenant_id__="a"}`}}
		},
		"grants[0].label_claims": func(c *AuthConfig) {
			c.OIDC.Grants = []Grant{{Tenants: []ID{"a"}, Scopes: []string{"metrics:read"}, LabelClaims: map[string]string{"__tenant_id__": "b"}}}
		},
	} {
		c := base
		change(&c)
		require.ErrorContains(t, c.Validate(), want)
	}
}
