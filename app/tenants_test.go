package app

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/admin"
)

// client asks an App as somebody.
type client struct {
	t       *testing.T
	app     *App
	token   string
	headers map[string]string
}

func (c client) do(method, path, body string) (int, http.Header, string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+c.app.Addr()+path, strings.NewReader(body))
	require.NoError(c.t, err)
	req.Close = true
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for name, value := range c.headers {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(c.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(c.t, err)
	return res.StatusCode, res.Header, string(text)
}

// must expects a status and decodes the answer.
func (c client) must(status int, method, path, body string, into any) http.Header {
	c.t.Helper()
	got, header, text := c.do(method, path, body)
	require.Equal(c.t, status, got, "%s %s: %s", method, path, text)
	if into != nil {
		require.NoError(c.t, json.Unmarshal([]byte(text), into), text)
	}
	return header
}

// tokenApp is an App in token mode, and its first operator.
func tokenApp(t *testing.T) (*App, client) {
	t.Helper()
	cfg := testConfig(t)
	cfg.Auth.Mode = tenant.ModeToken
	a := start(t, cfg)
	text, err := os.ReadFile(filepath.Join(cfg.DataDir, "operator-token"))
	require.NoError(t, err)
	return a, client{t: t, app: a, token: string(bytes.TrimSpace(text))}
}

func TestEveryRouteHasARule(t *testing.T) {
	for _, r := range build(t, testConfig(t)).Routes() {
		require.NotEmpty(t, r.Scope, "%s is registered at no router of a scope (app/doors.go)", r.Path)
	}
}

// Every route, asked with every scope, for another tenant, with an expired and
// a revoked token, and with none. The table is the App's own, so a new route is
// in it.
func TestAuthorisationMatrix(t *testing.T) {
	a, operator := tokenApp(t)
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`, nil)
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"other"}`, nil)
	as := map[string]client{}
	for _, s := range tenant.AllScopes() {
		body := `{"tenant":"acme","scopes":["` + s.String() + `"]}`
		if s == tenant.Operator {
			body = `{"scopes":["operator"]}`
		}
		var made admin.SecretToken
		operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", body, &made)
		as[s.String()] = client{t: t, app: a, token: made.Secret}
	}
	var revoked admin.SecretToken
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"tenant":"acme","scopes":["metrics:read","metrics:write","tenant:admin"]}`, &revoked)
	operator.must(http.StatusNoContent, http.MethodDelete, "/admin/v1/tokens/"+revoked.ID, "", nil)

	asked := 0
	for _, r := range a.Routes() {
		if strings.HasSuffix(r.Path, "/profile") || strings.HasSuffix(r.Path, "/trace") { // as /debug/pprof/, and they take their time
			continue
		}
		path := strings.NewReplacer("{name}", "x", "{tenant}", "nobody", "{plan}", "none", "{token}", "none", "{version:[0-9]+}", "1", "{namespace}", "x", "{group}", "x").Replace(r.Path)
		for _, method := range r.Methods {
			name := method + " " + r.Path
			refused := func(c client, status int, why string) {
				got, _, text := c.do(method, path, "")
				require.Equal(t, status, got, "%s %s: %s", name, why, text)
				asked++
			}
			let := func(c client, why string) {
				got, _, text := c.do(method, path, "")
				require.NotContains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, got, "%s %s: %s", name, why, text)
				asked++
			}
			if r.Scope == openDoor {
				let(client{t: t, app: a}, "without a token")
				continue
			}
			refused(client{t: t, app: a}, http.StatusUnauthorized, "without a token")
			refused(client{t: t, app: a, headers: map[string]string{tenant.Header: "acme"}}, http.StatusUnauthorized, "with the header only")
			got, _, text := client{t: t, app: a, token: revoked.Secret}.do(method, path, "")
			require.True(t, got == http.StatusUnauthorized || got == http.StatusTooManyRequests, "%s with a revoked token: %d %s", name, got, text)
			for scope, c := range as {
				switch {
				case scope == r.Scope:
					let(c, "with "+scope)
					c.headers = map[string]string{tenant.Header: "other"}
					if r.Tenant() {
						refused(c, http.StatusForbidden, "for another tenant")
					}
				case scope == tenant.Operator.String(): // it says no tenant, or may not be one
					c.headers = map[string]string{tenant.Header: "acme"}
					refused(c, http.StatusForbidden, "with "+scope)
				default:
					refused(c, http.StatusForbidden, "with "+scope)
				}
			}
		}
	}
	require.Greater(t, asked, 500)
}

// From nothing: an operator makes a tenant, whose token writes and reads, and
// nothing else.
func TestProvisionWriteReadRevoke(t *testing.T) {
	a, operator := tokenApp(t)
	var made admin.Created
	h := operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme","display_name":"Acme","labels":{"env":"prod"}}`, &made)
	require.NotEmpty(t, h.Get("ETag"))
	require.Equal(t, "http://"+a.Addr()+"/api/v1/push", made.Endpoints.RemoteWrite)
	require.Contains(t, made.Snippets.Prometheus, made.Token.Secret)
	operator.must(http.StatusOK, http.MethodPost, "/admin/v1/tenants", `{"id":"acme","display_name":"Acme","labels":{"env":"prod"}}`, &made)

	var reader admin.SecretToken
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"tenant":"acme","scopes":["metrics:read"]}`, &reader)
	c := client{t: t, app: a, token: reader.Secret}
	c.must(http.StatusOK, http.MethodGet, "/prometheus/api/v1/query?query=1", "", nil)
	status, _, text := c.do(http.MethodPost, "/api/v1/push", "")
	require.Equal(t, http.StatusForbidden, status)
	require.Contains(t, text, "err-scope-missing")
	operator.must(http.StatusNoContent, http.MethodDelete, "/admin/v1/tokens/"+reader.ID, "", nil)
	status, header, _ := c.do(http.MethodGet, "/prometheus/api/v1/query?query=1", "")
	require.Equal(t, http.StatusUnauthorized, status)
	require.Len(t, header.Values("WWW-Authenticate"), 2)
}

func TestStatusIsEnforced(t *testing.T) {
	a, operator := tokenApp(t)
	var made admin.Created
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`, &made)
	c := client{t: t, app: a, token: made.Token.Secret}
	for _, x := range []struct{ status, read, write string }{
		{"read_only", "", "err-tenant-read-only"},
		{"suspended", "err-tenant-suspended", "err-tenant-suspended"},
		{"active", "", ""},
	} {
		operator.must(http.StatusOK, http.MethodPatch, "/admin/v1/tenants/acme", `{"status":"`+x.status+`"}`, nil)
		_, _, text := c.do(http.MethodGet, "/prometheus/api/v1/labels", "")
		require.Contains(t, text, x.read)
		require.Equal(t, x.read == "", !strings.Contains(text, "err-"), text)
		_, _, text = c.do(http.MethodPost, "/api/v1/push", "")
		require.Contains(t, text, x.write)
		require.Equal(t, x.write == "", strings.Contains(text, "err-decompress"), text)
	}
	operator.must(http.StatusAccepted, http.MethodDelete, "/admin/v1/tenants/acme", "", nil)
	_, _, text := c.do(http.MethodGet, "/prometheus/api/v1/labels", "")
	require.Contains(t, text, "err-tenant-deleting")
	operator.must(http.StatusOK, http.MethodPost, "/admin/v1/tenants/acme/undelete", "", nil)
	c.must(http.StatusOK, http.MethodGet, "/prometheus/api/v1/labels", "", nil)
}

// With trusted headers a token is held to what it says all the same, so that
// what an operator tries on his own machine holds on others.
func TestHeaderModeHoldsTokensToTheirScopes(t *testing.T) {
	a := start(t, testConfig(t))
	nobody := client{t: t, app: a}
	var made admin.Created
	nobody.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`, &made)
	c := client{t: t, app: a, token: made.Token.Secret}
	c.must(http.StatusOK, http.MethodGet, "/prometheus/api/v1/labels", "", nil)
	c.must(http.StatusForbidden, http.MethodGet, "/admin/v1/tenants", "", nil)
	c.headers = map[string]string{tenant.Header: "other"}
	status, _, _ := c.do(http.MethodGet, "/prometheus/api/v1/labels", "")
	require.Equal(t, http.StatusForbidden, status)
	c = client{t: t, app: a, token: "what the proxy is told", headers: map[string]string{tenant.Header: "other"}}
	c.must(http.StatusOK, http.MethodGet, "/prometheus/api/v1/labels", "", nil)
	c.token = made.Token.Secret[:len(made.Token.Secret)-1]
	status, _, _ = c.do(http.MethodGet, "/prometheus/api/v1/labels", "")
	require.Equal(t, http.StatusUnauthorized, status)
}
