package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant/admin"
)

// openAPI is as much of the description as the tests look at.
type openAPI struct {
	Paths map[string]map[string]struct {
		Scope     string `json:"x-scope"`
		Responses map[string]struct {
			Content map[string]struct {
				Schema map[string]any `json:"schema"`
			} `json:"content"`
		} `json:"responses"`
	} `json:"paths"`
	Components struct {
		Schemas map[string]map[string]any `json:"schemas"`
	} `json:"components"`
}

func readOpenAPI(t *testing.T) *openAPI {
	t.Helper()
	var doc openAPI
	require.NoError(t, json.Unmarshal(admin.OpenAPI, &doc))
	return &doc
}

// Every route of the API is described with its scope, and nothing else is.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	described := map[string]string{}
	for path, ops := range readOpenAPI(t).Paths {
		for method, op := range ops {
			described[strings.ToUpper(method)+" "+path] = op.Scope
		}
	}
	served := map[string]string{}
	for _, r := range build(t, testConfig(t)).Routes() {
		if strings.HasPrefix(r.Path, "/admin/v1/") || strings.HasPrefix(r.Path, "/api/v1/tenant") || strings.HasPrefix(r.Path, "/api/v1/user_") || r.Path == "/api/v1/openapi.json" {
			for _, m := range r.Methods {
				served[m+" "+r.Path] = r.Scope
			}
		}
	}
	require.Equal(t, served, described)
}

// check holds a value against a schema.
func (d *openAPI) check(schema map[string]any, v any, at string) error {
	if name, ok := schema["$ref"].(string); ok {
		return d.check(d.Components.Schemas[strings.TrimPrefix(name, "#/components/schemas/")], v, at)
	}
	switch schema["type"] {
	case "object":
		return d.checkObject(schema, v, at)
	case "array":
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s: want an array, got %v", at, v)
		}
		for i, x := range list {
			if err := d.check(schema["items"].(map[string]any), x, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case "string":
		s, ok := v.(string)
		if enum, has := schema["enum"].([]any); !ok || (has && !slices.Contains(enum, any(s))) {
			return fmt.Errorf("%s: want a text of %v, got %v", at, schema["enum"], v)
		}
		if schema["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339, s); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
		}
	case "integer", "number":
		if _, ok := v.(float64); !ok {
			return fmt.Errorf("%s: want a number, got %v", at, v)
		}
	}
	return nil
}

func (d *openAPI) checkObject(schema map[string]any, v any, at string) error {
	have, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: want an object, got %v", at, v)
	}
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := have[name.(string)]; !ok {
			return fmt.Errorf("%s: lacks %s", at, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		s, ok := properties[name].(map[string]any)
		if !ok {
			if s, ok = schema["additionalProperties"].(map[string]any); !ok {
				return fmt.Errorf("%s: has %s, which is not described", at, name)
			}
		}
		if err := d.check(s, have[name], at+"."+name); err != nil {
			return err
		}
	}
	return nil
}

// Every operation answers as it is described, and so do errors.
func TestAnswersAreAsOpenAPISays(t *testing.T) {
	doc := readOpenAPI(t)
	a, operator := tokenApp(t)
	seen := map[string]bool{}
	ask := func(c client, method, template, body string, with ...string) map[string]any {
		t.Helper()
		status, _, text := c.do(method, strings.NewReplacer(with...).Replace(template), body)
		op, ok := doc.Paths[strings.SplitN(template, "?", 2)[0]][strings.ToLower(method)]
		require.True(t, ok, "%s %s", method, template)
		res, ok := op.Responses[fmt.Sprint(status)]
		if !ok {
			res, ok = op.Responses["default"]
			require.True(t, ok && status >= 400, "%s %s: %d %s", method, template, status, text)
		}
		if status < 400 {
			seen[method+" "+strings.SplitN(template, "?", 2)[0]] = true
		}
		media, ok := res.Content["application/json"]
		if !ok {
			return nil
		}
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &v), text)
		require.NoError(t, doc.check(media.Schema, v, method+" "+template), text)
		return v
	}
	const tenantPath, planPath, tokenPath = "/admin/v1/tenants/{tenant}", "/admin/v1/plans/{plan}", "/admin/v1/tokens/{token}"
	ask(operator, "PUT", planPath, `{"limits":{"max_series":10,"max_query_length":"1d"}}`, "{plan}", "small")
	ask(operator, "GET", planPath, "", "{plan}", "small")
	ask(operator, "GET", "/admin/v1/plans", "")
	created := ask(operator, "POST", "/admin/v1/tenants", `{"id":"acme","plan":"small","labels":{"a":"b"},"limits":{"ingestion_rate":5}}`)
	ask(operator, "POST", "/admin/v1/tenants", `{"id":"acme","plan":"small","labels":{"a":"b"},"limits":{"ingestion_rate":5}}`)
	ask(operator, "POST", "/admin/v1/tenants", `{"id":"acme"}`)
	ask(operator, "GET", "/admin/v1/tenants", "")
	ask(operator, "GET", tenantPath, "", "{tenant}", "acme")
	ask(operator, "GET", tenantPath, "", "{tenant}", "nobody")
	ask(operator, "PATCH", tenantPath, `{"status":"read_only","labels":{"a":null}}`, "{tenant}", "acme")
	ask(operator, "PATCH", tenantPath, `{"status":"active"}`, "{tenant}", "acme")
	ask(operator, "GET", tenantPath+"/limits", "", "{tenant}", "acme")
	ask(operator, "DELETE", tenantPath, "", "{tenant}", "acme")
	ask(operator, "POST", tenantPath+"/undelete", "", "{tenant}", "acme")
	token := ask(operator, "POST", "/admin/v1/tokens", `{"tenant":"acme","name":"x","scopes":["metrics:read"],"label_policy":"{a=\"b\"}","expires_at":"2100-01-01T00:00:00Z"}`)
	ask(operator, "GET", "/admin/v1/tokens?tenant=acme", "")
	ask(operator, "GET", tokenPath, "", "{token}", token["id"].(string))
	ask(operator, "POST", tokenPath+"/rotate", "", "{token}", token["id"].(string))
	ask(operator, "DELETE", tokenPath, "", "{token}", token["id"].(string))
	ask(operator, "GET", "/admin/v1/audit", "")

	var boss admin.SecretToken
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"tenant":"acme","scopes":["tenant:admin"]}`, &boss)
	own := client{t: t, app: a, token: boss.Secret}
	for _, path := range []string{"", "/limits", "/config", "/usage", "/refused", "/tokens"} {
		ask(own, "GET", "/api/v1/tenant"+path, "")
	}
	token = ask(own, "POST", "/api/v1/tenant/tokens", `{"scopes":["metrics:read"]}`)
	ask(own, "GET", "/api/v1/tenant/tokens/{token}", "", "{token}", token["id"].(string))
	ask(own, "POST", "/api/v1/tenant/tokens/{token}/rotate", "", "{token}", token["id"].(string))
	ask(own, "DELETE", "/api/v1/tenant/tokens/{token}", "", "{token}", token["id"].(string))

	user := client{t: t, app: a, token: created["token"].(map[string]any)["secret"].(string)}
	user.do(http.MethodPost, "/api/v1/push", "not snappy")
	user.must(http.StatusOK, http.MethodGet, "/prometheus/api/v1/query?query=up", "", nil)
	ask(user, "GET", "/api/v1/user_limits", "")
	ask(user, "GET", "/api/v1/user_stats", "")
	ask(operator, "GET", "/admin/v1/usage", "")
	ask(user, "GET", "/api/v1/openapi.json", "")
	operator.must(http.StatusOK, http.MethodPut, "/admin/v1/plans/unused", `{"limits":{}}`, nil)
	ask(operator, "DELETE", planPath, "", "{plan}", "small")
	ask(operator, "DELETE", planPath, "", "{plan}", "unused")

	for path, ops := range doc.Paths {
		for method := range ops {
			require.True(t, seen[strings.ToUpper(method)+" "+path], "%s %s was not tried", method, path)
		}
	}
}

// A field that is wrong is named, and one that is unknown is not passed over.
func TestErrorsNameTheField(t *testing.T) {
	_, operator := tokenApp(t)
	for _, c := range []struct {
		path, body, field string
	}{
		{"/admin/v1/tenants", `{"id":"a/b"}`, "id"},
		{"/admin/v1/tenants", `{"id":"a","limits":{"max_serie":1}}`, "limits.max_serie"},
		{"/admin/v1/tenants", `{"id":"a","limits":{"max_series":"x"}}`, "limits.max_series"},
		{"/admin/v1/tenants", `{"id":"a","plan":"none"}`, "plan"},
		{"/admin/v1/tenants", `{"id":"a","sheep":1}`, "sheep"},
		{"/admin/v1/tenants", `{"id":7}`, "id"},
		{"/admin/v1/tenants", `{"id":"a"} {}`, "body"},
		{"/admin/v1/tenants", ``, "body"},
		{"/admin/v1/tokens", `{"tenant":"nobody","scopes":["metrics:read"]}`, "tenant"},
		{"/admin/v1/tokens", `{"scopes":["all"]}`, "scopes"},
		{"/admin/v1/tokens", `{"scopes":["metrics:read"],"label_policy":"up"}`, ""},
		{"/admin/v1/tokens", `{"scopes":["metrics:read"],"label_policy":"{"}`, "label_policy"},
	} {
		status, _, text := operator.do(http.MethodPost, c.path, c.body)
		if c.field == "" {
			require.Equal(t, http.StatusCreated, status, text)
			continue
		}
		require.Equal(t, http.StatusBadRequest, status, text)
		var p admin.Problem
		require.NoError(t, json.Unmarshal([]byte(text), &p))
		require.Equal(t, c.field, p.Field, text)
	}
}

// Of two operators who change the same version, one is told.
func TestIfMatch(t *testing.T) {
	_, operator := tokenApp(t)
	h := operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`, nil)
	operator.headers = map[string]string{"If-Match": h.Get("ETag")}
	operator.must(http.StatusOK, http.MethodPatch, "/admin/v1/tenants/acme", `{"display_name":"one"}`, nil)
	operator.must(http.StatusPreconditionFailed, http.MethodPatch, "/admin/v1/tenants/acme", `{"display_name":"two"}`, nil)
	operator.must(http.StatusPreconditionFailed, http.MethodDelete, "/admin/v1/tenants/acme", "", nil)
}
