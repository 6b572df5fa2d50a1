//go:build e2e

package e2e

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// From nothing: three processes that ask for tokens, one request makes a tenant,
// a real Prometheus writes with the snippet of the answer as it is, a token
// reads what it wrote on every process and writes on none, and is refused
// everywhere when it is revoked.
func TestPrometheusWritesWithTheSnippet(t *testing.T) {
	c := newCluster(t)
	c.set = []string{"auth.mode=token"}
	c.add("node", 3, nil, "")
	operator := c.operator()
	made := c.nodes[0].adminAs(operator, http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`)
	reader := c.nodes[1].adminAs(operator, http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"tenant":"acme","scopes":["metrics:read"]}`)
	startPrometheus(t, "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: hearth\n    static_configs:\n      - targets: ['"+
		strings.TrimPrefix(c.nodes[0].url, "http://")+"']\n"+made.Snippets.Prometheus)
	for _, n := range c.nodes {
		until(t, patience, "samples of Prometheus to be read on "+n.name, func() error {
			status, text, err := n.do(http.MethodGet, "/prometheus/api/v1/query?query=up", "", http.Header{"Authorization": {"Bearer " + reader.Secret}}, nil)
			switch {
			case err != nil:
				return err
			case status != http.StatusOK || !strings.Contains(text, `"job":"hearth"`):
				return errors.New(text)
			}
			return nil
		})
		require.Equal(t, http.StatusForbidden, n.as(reader.Secret, http.MethodPost, "/api/v1/push"))
		require.Equal(t, http.StatusForbidden, n.as(made.Token.Secret, http.MethodGet, "/admin/v1/tenants"))
		require.Equal(t, http.StatusUnauthorized, n.as("", http.MethodGet, "/prometheus/api/v1/query?query=1"))
	}
	c.nodes[2].adminAs(operator, http.StatusNoContent, http.MethodDelete, "/admin/v1/tokens/"+reader.ID, "")
	c.everywhere(reader.Secret, http.StatusUnauthorized, "revoked")
}
