package admin

import (
	"net/http"
	"slices"
	"time"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/tenant"
)

// TokenRequest is the body that makes a token. A tenant's administrator leaves
// the tenant out; an operator does for a token of operators.
type TokenRequest struct {
	Tenant      tenant.ID     `json:"tenant"`
	Name        string        `json:"name"`
	Scopes      tenant.Scopes `json:"scopes"`
	LabelPolicy string        `json:"label_policy"`
	ExpiresAt   time.Time     `json:"expires_at"`
}

// SecretToken is a token with its secret, which is told this once.
type SecretToken struct {
	tenant.Token
	Secret string `json:"secret"`
}

// TokenPage is part of the list of tokens.
type TokenPage struct {
	Tokens []tenant.Token `json:"tokens"`
	Next   string         `json:"next,omitempty"`
}

func (a *API) createToken(r *http.Request) (answer, error) {
	var req TokenRequest
	if err := decode(r, &req); err != nil {
		return answer{}, err
	}
	if o := owner(r); !o.All {
		if req.Tenant != "" && req.Tenant != o.Tenant {
			return answer{}, invalid("tenant", "is not the one that you are administrator of; leave it out")
		}
		req.Tenant = o.Tenant
	}
	t, secret, err := a.registry.CreateToken(r.Context(), tenant.Token{
		Tenant: req.Tenant, Name: req.Name, Scopes: req.Scopes, LabelPolicy: req.LabelPolicy, ExpiresAt: req.ExpiresAt.UTC(),
	})
	return answer{status: http.StatusCreated, version: t.Version, body: SecretToken{t, secret}}, err
}

func (a *API) listTokens(r *http.Request) (answer, error) {
	limit, err := limitParam(r)
	if err != nil {
		return answer{}, err
	}
	o, q := owner(r), r.URL.Query()
	if id := q.Get("tenant"); o.All && id != "" {
		o = tenant.Owner{Tenant: tenant.ID(id)}
	}
	all := a.registry.Tokens(o)
	first, _ := slices.BinarySearchFunc(all, q.Get("after")+"\x00", func(t tenant.Token, after string) int {
		if t.ID < after {
			return -1
		}
		return 1
	})
	if q.Get("after") == "" {
		first = 0
	}
	page := TokenPage{Tokens: all[first:]}
	if len(page.Tokens) > limit {
		page.Tokens = page.Tokens[:limit]
		page.Next = page.Tokens[limit-1].ID
	}
	return answer{body: page}, nil
}

func pathToken(r *http.Request) string { return mux.Vars(r)["token"] }

func (a *API) getToken(r *http.Request) (answer, error) {
	t, err := a.registry.Token(owner(r), pathToken(r))
	return answer{version: t.Version, body: t}, err
}

func (a *API) revokeToken(r *http.Request) (answer, error) {
	return answer{status: http.StatusNoContent}, a.registry.RevokeToken(r.Context(), owner(r), pathToken(r))
}

func (a *API) rotateToken(r *http.Request) (answer, error) {
	t, secret, err := a.registry.RotateToken(r.Context(), owner(r), pathToken(r))
	return answer{version: t.Version, body: SecretToken{t, secret}}, err
}
