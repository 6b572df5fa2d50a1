package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// provisioned is as much of the answer that makes a tenant as clients need.
type provisioned struct {
	ID        string `json:"id"`     // of a token
	Secret    string `json:"secret"` // of a token
	Token     struct{ ID, Secret string }
	Snippets  struct{ Prometheus string }
	Endpoints struct{ Prometheus string }
}

// admin sends a request to the API of tenants.
func (e *endpoint) admin(want int, method, path, body string) provisioned {
	e.t.Helper()
	status, text, err := e.do(method, path, "", nil, []byte(body))
	require.NoError(e.t, err)
	require.Equal(e.t, want, status, text)
	var p provisioned
	if text != "" {
		require.NoError(e.t, json.Unmarshal([]byte(text), &p))
	}
	return p
}

// as asks with a token and returns the status.
func (e *endpoint) as(token, method, path string) int {
	e.t.Helper()
	status, _, err := e.do(method, path, "", http.Header{"Authorization": {"Bearer " + token}}, nil)
	require.NoError(e.t, err)
	return status
}

// A tenant that one process makes is known to all, and a token that one
// revokes is refused by all, within seconds.
func TestTenantsInACluster(t *testing.T) {
	c := newCluster(t)
	c.add("node", 3, nil, "")
	c.nodes[0].admin(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`)
	reader := c.nodes[1].admin(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"tenant":"acme","scopes":["metrics:read"]}`)
	const query = "/prometheus/api/v1/query?query=1"
	everywhere := func(want int, what string) {
		began := time.Now()
		for _, n := range c.nodes {
			until(t, patience, what+" on "+n.name, func() error {
				if got := n.as(reader.Secret, http.MethodGet, query); got != want {
					return fmt.Errorf("answered %d", got)
				}
				return nil
			})
		}
		t.Logf("%s everywhere after %s", what, time.Since(began).Round(time.Millisecond))
	}
	everywhere(http.StatusOK, "let in")
	for _, n := range c.nodes {
		require.Equal(t, http.StatusForbidden, n.as(reader.Secret, http.MethodPost, "/api/v1/push"))
	}
	c.nodes[2].admin(http.StatusOK, http.MethodPatch, "/admin/v1/tenants/acme", `{"status":"suspended"}`)
	everywhere(http.StatusForbidden, "suspended")
	c.nodes[0].admin(http.StatusOK, http.MethodPatch, "/admin/v1/tenants/acme", `{"status":"active"}`)
	everywhere(http.StatusOK, "let in again")
	c.nodes[1].admin(http.StatusNoContent, http.MethodDelete, "/admin/v1/tokens/"+reader.ID, "")
	everywhere(http.StatusUnauthorized, "revoked")
}

// What was made is there after a crash.
func TestTenantsAfterACrash(t *testing.T) {
	h := startHearth(t)
	made := h.admin(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`)
	h.kill()
	h.start()
	require.Equal(t, http.StatusOK, h.as(made.Token.Secret, http.MethodGet, "/prometheus/api/v1/query?query=1"))
	again := h.admin(http.StatusOK, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`)
	require.Empty(t, again.Token.Secret)
}
