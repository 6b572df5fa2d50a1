package admin

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/hearth-metrics/hearth/tenant"
)

// Endpoints is where a tenant's clients go.
type Endpoints struct {
	RemoteWrite  string `json:"remote_write"`
	OTLP         string `json:"otlp"`
	Prometheus   string `json:"prometheus"`
	Alertmanager string `json:"alertmanager"`
}

// Snippets are configurations of a tenant's clients, to be pasted as they are.
type Snippets struct {
	Prometheus string `json:"prometheus"`
	Grafana    string `json:"grafana"`
}

// secretPlaceholder stands where the secret was told before.
const secretPlaceholder = "<token>"

// endpointsOf are below the address that the request came to.
func endpointsOf(r *http.Request) Endpoints {
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	base := scheme + "://" + r.Host
	return Endpoints{
		RemoteWrite:  base + "/api/v1/push",
		OTLP:         base + "/otlp/v1/metrics",
		Prometheus:   base + "/prometheus",
		Alertmanager: base + "/alertmanager",
	}
}

// snippetsOf quotes what goes into YAML as JSON does, which YAML reads.
func snippetsOf(e Endpoints, id tenant.ID, secret string) Snippets {
	if secret == "" {
		secret = secretPlaceholder
	}
	return Snippets{
		Prometheus: fmt.Sprintf(`remote_write:
  - url: %s
    authorization:
      type: Bearer
      credentials: %s
    queue_config:
      retry_on_http_429: true
`, strconv.Quote(e.RemoteWrite), strconv.Quote(secret)),
		Grafana: fmt.Sprintf(`apiVersion: 1
datasources:
  - name: %s
    type: prometheus
    access: proxy
    url: %s
    jsonData:
      httpMethod: POST
      httpHeaderName1: Authorization
    secureJsonData:
      httpHeaderValue1: %s
`, strconv.Quote("Hearth "+string(id)), strconv.Quote(e.Prometheus), strconv.Quote("Bearer "+secret)),
	}
}
