package tenant

import (
	"net/http"
	"strings"

	"github.com/hearth-metrics/hearth/wire"
)

// Header carries the tenant's ID, set by a trusted client or proxy. Its name
// and meaning are those of Cortex and Mimir.
const Header = "X-Scope-OrgID"

// Middleware finds the tenant of each request and puts it in the context. A
// request without a tenant, or with an invalid one, ends here with 401 or 400.
func Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := ParseID(strings.TrimSpace(r.Header.Get(Header)))
		if err != nil {
			wire.WriteHTTPError(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(WithID(r.Context(), id)))
	})
}
