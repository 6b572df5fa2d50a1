//go:build e2e

package e2e

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// From an empty machine: one request makes a tenant, a real Prometheus writes
// with the snippet of the answer as it is, and a token reads what it wrote.
func TestPrometheusWritesWithTheSnippet(t *testing.T) {
	h := startHearth(t)
	made := h.admin(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`)
	startPrometheus(t, "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: hearth\n    static_configs:\n      - targets: ['"+
		strings.TrimPrefix(h.url, "http://")+"']\n"+made.Snippets.Prometheus)
	until(t, patience, "samples of Prometheus to be read", func() error {
		status, text, err := h.do(http.MethodGet, "/prometheus/api/v1/query?query=up", "", http.Header{"Authorization": {"Bearer " + made.Token.Secret}}, nil)
		switch {
		case err != nil:
			return err
		case status != http.StatusOK || !strings.Contains(text, `"job":"hearth"`):
			return errors.New(text)
		}
		return nil
	})
	require.Equal(t, http.StatusForbidden, h.as(made.Token.Secret, http.MethodGet, "/admin/v1/tenants"))
}
