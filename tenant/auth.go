package tenant

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/hearth-metrics/hearth/tenant/oidc"
	"github.com/hearth-metrics/hearth/wire"
)

// Auth is the door: it finds out who sends a request, and lets in whom its
// route's scope allows. Safe for concurrent use.
type Auth struct {
	cfg      AuthConfig
	registry *Registry
	issuer   *oidc.Verifier // nil: none but ours
	grants   []grant
	throttle throttle
}

// NewAuth makes the door to what a registry knows.
func NewAuth(cfg AuthConfig, r *Registry) (*Auth, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Auth{cfg: cfg, registry: r}
	if cfg.OIDC.Issuer == "" {
		return a, nil
	}
	a.issuer = oidc.New(cfg.OIDC.Issuer, cfg.OIDC.Audience, r.logger)
	for i := range cfg.OIDC.Grants {
		g, err := cfg.OIDC.Grants[i].compile()
		if err != nil {
			return nil, err
		}
		a.grants = append(a.grants, g)
	}
	return a, nil
}

// Principal is who sends a request, and what he may do.
type Principal struct {
	name    string // "": there is no token, and the header is trusted
	scopes  Scopes
	tenants []ID // whose data; none: anybody's
	policy  []*labels.Matcher
}

// Trusted says that the request came without a token, where that is enough.
func (p *Principal) Trusted() bool { return p.name == "" }

// May says whether somebody may do what a scope is for.
func (p *Principal) May(s Scope) bool { return p.Trusted() || p.scopes.Has(s) }

// mayUse says whether somebody may say that he is a tenant.
func (p *Principal) mayUse(id ID) bool { return len(p.tenants) == 0 || slices.Contains(p.tenants, id) }

// Name is who it is, for the audit.
func (p *Principal) Name() string {
	if p.Trusted() {
		return "without a token"
	}
	return p.name
}

type (
	principalKey struct{}
	policyKey    struct{}
)

// PrincipalFrom returns who sends the request; nil outside of one.
func PrincipalFrom(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}

// WithPolicy returns a context whose reads see only what the matchers select.
func WithPolicy(ctx context.Context, ms []*labels.Matcher) context.Context {
	return context.WithValue(ctx, policyKey{}, ms)
}

// PolicyFrom returns the matchers that every read of the context is narrowed
// by, beside its own. Whoever reads series, names, values, exemplars or
// metadata adds them at the lowest level, and whoever keeps answers keeps them
// apart by these.
func PolicyFrom(ctx context.Context) []*labels.Matcher {
	ms, _ := ctx.Value(policyKey{}).([]*labels.Matcher)
	return ms
}

// Require lets in requests of a tenant that a scope allows, with the tenant in
// their context; for the scope Operator there is no tenant.
func (a *Auth) Require(s Scope) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, err := a.admit(r, s)
			if err != nil {
				a.refuse(w, err)
				return
			}
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

func (a *Auth) refuse(w http.ResponseWriter, err error) {
	var ue *wire.UserError
	if errors.As(err, &ue) {
		a.registry.metrics.refused.WithLabelValues(ue.ID).Inc()
		if ue.Kind == wire.Unauthenticated && ue.ID != "err-tenant-missing" {
			w.Header().Add("WWW-Authenticate", `Basic realm="hearth", charset="UTF-8"`)
			w.Header().Add("WWW-Authenticate", `Bearer realm="hearth"`)
		}
	}
	wire.WriteHTTPError(w, err)
}

func (a *Auth) admit(r *http.Request, s Scope) (context.Context, error) {
	c := credentialOf(r)
	p, err := a.identify(r.Context(), c)
	if err != nil {
		return nil, a.throttle.slow(r.RemoteAddr, a.registry.now(), err)
	}
	ctx := context.WithValue(r.Context(), principalKey{}, p)
	ctx = WithActor(ctx, p.Name())
	if s == Operator {
		return ctx, allow(p, s)
	}
	who, err := tenantsOf(p, c)
	if err := errorOf(err, allow(p, s)); err != nil {
		return nil, err
	}
	if len(p.policy) > 0 {
		ctx = WithPolicy(ctx, p.policy)
	}
	if who.several() {
		ids, err := a.readable(who, s)
		return WithIDs(ctx, ids), err
	}
	return WithID(ctx, who.ids[0]), a.checkStatus(who.ids[0], s)
}

// readable is several tenants whose data is to be read together.
func (a *Auth) readable(who named, s Scope) ([]ID, error) {
	if s != MetricsRead {
		return nil, errSeveral()
	}
	if who.selector != nil {
		if !a.registry.Known() {
			return nil, errNotRead("tenants")
		}
		return a.registry.selected(who.selector)
	}
	for _, id := range who.ids {
		var ue *wire.UserError
		if err := a.checkStatus(id, s); errors.As(err, &ue) {
			return nil, ue.About(string(id))
		}
	}
	return who.ids, nil
}

func errNotRead(what string) error {
	return &wire.UserError{Kind: wire.Unavailable, ID: "err-tokens-not-read", Msg: what + " cannot be checked yet, try again", RetryAfter: retryPeriod}
}

// credential is what a request says about its sender.
type credential struct {
	token  string // "" for none
	user   string // of basic authentication: the tenant, or nothing
	tenant string // of the header
}

func credentialOf(r *http.Request) credential {
	c := credential{tenant: strings.TrimSpace(strings.Join(r.Header.Values(Header), ","))} // two of them are no name
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		c.token = strings.TrimSpace(rest)
	case strings.EqualFold(scheme, "Basic"):
		c.user, c.token, _ = r.BasicAuth()
	}
	return c
}

// identify finds who it is. With trusted headers, what does not look like a
// token of ours was for the proxy; what does is held to what it says.
func (a *Auth) identify(ctx context.Context, c credential) (*Principal, error) {
	if a.cfg.Mode == ModeHeader && !strings.HasPrefix(c.token, tokenPrefix) {
		return &Principal{}, nil
	}
	switch {
	case c.token == "":
		return nil, wire.Errorf(wire.Unauthenticated, "err-token-missing", "send a token: Authorization: Bearer <token>, or basic authentication with the tenant and the token")
	case a.issuer != nil && !strings.HasPrefix(c.token, tokenPrefix):
		return a.claimed(ctx, c.token)
	case !a.registry.Known():
		return nil, errNotRead("tokens")
	}
	t, err := a.registry.identify(c.token)
	if err != nil {
		return nil, wire.Errorf(wire.Unauthenticated, "err-token-invalid", "the token is not valid: it is wrong, expired or revoked")
	}
	return t.principal(), nil
}

// claimed is who a token of the issuer says that somebody is.
func (a *Auth) claimed(ctx context.Context, token string) (*Principal, error) {
	claims, err := a.issuer.Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	g := grantOf(a.grants, claims)
	if g == nil {
		return nil, wire.Errorf(wire.Forbidden, "err-token-no-grant", "the token is valid, but nothing is granted to those who have its claims")
	}
	return g.principal(claims)
}

// tenantsOf is whose data a request is about. A token that is for some tenants
// is for no others, whatever else the request says.
func tenantsOf(p *Principal, c credential) (named, error) {
	asked := c.tenant
	if asked == "" && !p.Trusted() {
		asked = c.user
	}
	if len(p.tenants) > 0 {
		for _, text := range []string{asked, c.user} {
			for name := range strings.SplitSeq(text, "|") {
				if text != "" && !p.mayUse(ID(name)) {
					return named{}, wire.Errorf(wire.Forbidden, "err-tenant-not-of-token", "the token is not for the tenant that the request names; leave the tenant out, or name the token's own")
				}
			}
		}
		if asked == "" && len(p.tenants) == 1 {
			return named{ids: p.tenants}, nil
		}
	}
	return parseNames(asked)
}

func allow(p *Principal, s Scope) error {
	if p.May(s) {
		return nil
	}
	return wire.Errorf(wire.Forbidden, "err-scope-missing", "the token does not have the scope %s", s)
}

// checkStatus refuses what the tenant's status does not allow.
func (a *Auth) checkStatus(id ID, s Scope) error {
	t := a.registry.tenant(id)
	if t == nil {
		return a.checkUnknown(id)
	}
	writes := s == MetricsWrite || s == RulesWrite || s == AlertsWrite
	switch {
	case t.Status == Deleting:
		return wire.Errorf(wire.Forbidden, "err-tenant-deleting", "the tenant is being deleted")
	case s == Admin, t.Status == Active: // an administrator sees why
		return nil
	case t.Status == Suspended:
		return wire.Errorf(wire.Forbidden, "err-tenant-suspended", "the tenant is suspended; ask those who run Hearth")
	case writes:
		return wire.Errorf(wire.Forbidden, "err-tenant-read-only", "the tenant is read-only: nothing is written; ask those who run Hearth")
	}
	return nil
}

func (a *Auth) checkUnknown(id ID) error {
	if a.registry.cfg.Unknown == UnknownCreate {
		return nil
	}
	if _, ok := a.registry.limits.Tenants[id]; ok {
		return nil
	}
	if !a.registry.Known() {
		return errNotRead("tenants")
	}
	return wire.Errorf(wire.Forbidden, "err-tenant-unknown", "there is no such tenant")
}
