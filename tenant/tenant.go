// Package tenant is WHO: the identity that every request carries, what it may
// do, its limits, and the registry that keeps all of it.
//
// In comes an HTTP request with a token, or with the tenant in a trusted
// header; out goes a context that names the tenant, and what its reads are
// narrowed by. Everything behind the door takes the tenant from the context and
// from nowhere else. Tenants, tokens and plans are objects in the bucket,
// changed by conditional writes; every process has all of them in memory, so no
// request waits for the bucket, and hears of changes within seconds.
//
// Start reading at ParseID, then auth.go (the door), registry.go (lookups),
// store.go (the objects), change.go (what changes them), and Limits.
package tenant

import (
	"context"
	"strings"

	"github.com/hearth-metrics/hearth/wire"
)

// ID names a tenant: 1 to 150 bytes of letters, digits and ! - _ . * ' ( ).
// An ID is safe as a file name and as an object key.
type ID string

// MaxIDLength is the longest ID, in bytes.
const MaxIDLength = 150

// ParseID checks s against the rules for IDs. The rules are those of Cortex
// and Mimir, so that their tenants can move in unchanged; names that mean
// something in the bucket's layout are refused, among them everything that
// starts with two underscores.
func ParseID(s string) (ID, error) {
	switch {
	case s == "":
		return "", wire.Errorf(wire.Unauthenticated, "err-tenant-missing", "no org id: send the tenant in the header %s", Header)
	case len(s) > MaxIDLength:
		return "", wire.Errorf(wire.Invalid, "err-tenant-invalid", "tenant id is %d bytes long, the limit is %d", len(s), MaxIDLength)
	case s == "." || s == ".." || s == "user-index.json.gz" || strings.HasPrefix(s, "__"):
		return "", wire.Errorf(wire.Invalid, "err-tenant-invalid", "tenant id %q is reserved, choose another", s)
	}
	for i := range len(s) {
		if !idByte(s[i]) {
			return "", wire.Errorf(wire.Invalid, "err-tenant-invalid", "tenant id has the character %q at byte %d: letters, digits and ! - _ . * ' ( ) are allowed", s[i], i)
		}
	}
	return ID(s), nil
}

func idByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	default:
		return strings.IndexByte("!-_.*'()", c) >= 0
	}
}

type contextKey struct{}

// WithID returns a context that carries the tenant.
func WithID(ctx context.Context, id ID) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext returns the tenant that the request belongs to; an error of
// kind Unauthenticated where there is none, and of kind Invalid where there are
// several.
func FromContext(ctx context.Context) (ID, error) {
	switch v := ctx.Value(contextKey{}).(type) {
	case ID:
		return v, nil
	case []ID:
		return "", errSeveral()
	default:
		return ParseID("")
	}
}
