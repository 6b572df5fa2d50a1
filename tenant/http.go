package tenant

import (
	"net/http"
	"strings"

	"github.com/hearth-metrics/hearth/wire"
)

// Header carries the tenant's ID. Without a token it is set by a trusted client
// or proxy; with one it says which of the tenants is meant that the token may
// use. Its name and meaning are those of Cortex and Mimir.
const Header = "X-Scope-OrgID"

// Middleware believes the header and nothing else. It serves those who test a
// part alone; a process has Auth.
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
