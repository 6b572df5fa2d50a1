package ruler

import (
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/gorilla/mux"
	"github.com/stretchr/testify/require"
)

// An operator sees all rules, and where they are evaluated.
func TestOperatorsSeeAllTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newWorld(t).start()
		post(t, r, "b", "ns", recording("g", 1))
		post(t, r, "a", "ns", recording("g", 1))
		post(t, r, "a", "ns", recording("h", 1))
		synctest.Wait()
		router := mux.NewRouter()
		r.RegisterOperatorRoutes(router)
		get := func(path string) (int, string) {
			rec := httptest.NewRecorder()
			router.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
			return rec.Code, rec.Body.String()
		}
		const group = "name: g\n          rules:\n            - record: a\n              expr: up\n"
		_, body := get("/ruler/rule_groups")
		require.Equal(t, "a:\n    ns:\n        - "+group+"        - "+group[:6]+"h"+group[7:]+"b:\n    ns:\n        - "+group, body)
		_, body = get("/ruler/tenants")
		require.Regexp(t, `^tenant +groups +here\na +2 +2\nb +1 +1\n$`, body)
		code, body := get("/ruler/tenant/b/rule_groups")
		require.Equal(t, 200, code)
		require.Equal(t, "ns:\n    - name: g\n      rules:\n        - record: a\n          expr: up\n", body)
		code, _ = get("/ruler/tenant/c/rule_groups")
		require.Equal(t, 404, code)
	})
}
