package tenant

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/grafana/regexp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/hearth-metrics/hearth/tenant/oidc"
	"github.com/hearth-metrics/hearth/wire"
)

// OIDCConfig lets an identity provider say who somebody is. What it says is
// believed as far as Grants go.
type OIDCConfig struct {
	Issuer   string  `yaml:"issuer"`   // URL of an OpenID Connect issuer whose tokens are taken beside Hearth's own; empty: none
	Audience string  `yaml:"audience"` // what the issuer calls Hearth: the claim aud has to name it
	Grants   []Grant `yaml:"grants"`   // what tokens allow; the first grant whose claims a token has counts, and no other
}

// Grant says what those may do whose token has some claims. A claim is named as
// it is in the token; a dot goes into an object, as in realm_access.roles. A
// claim that is a list has each of its values.
type Grant struct {
	Claims      map[string]string `yaml:"claims"`       // values that a token must have for the grant; none: every token of the issuer
	Tenants     []ID              `yaml:"tenants"`      // whose data
	TenantClaim string            `yaml:"tenant_claim"` // in the place of tenants: the claim that names the tenant, or several
	Scopes      []string          `yaml:"scopes"`       // as those of a token; with operator there are no tenants to name
	LabelPolicy string            `yaml:"label_policy"` // a selector that every read is narrowed by
	LabelClaims map[string]string `yaml:"label_claims"` // labels that everything read must have, each with the claim that has the value, or several
}

// Validate names the first key that cannot work.
func (c *OIDCConfig) Validate(mode string) error {
	switch {
	case c.Issuer == "" && (c.Audience != "" || len(c.Grants) > 0):
		return fmt.Errorf("oidc.issuer: must not be empty where there is an audience or a grant")
	case c.Issuer == "":
		return nil
	case mode != ModeToken:
		return fmt.Errorf("oidc.issuer: needs mode %s", ModeToken)
	case c.Audience == "":
		return fmt.Errorf("oidc.audience: must not be empty: tokens for others would be taken")
	}
	if err := oidc.CheckURL(c.Issuer); err != nil {
		return fmt.Errorf("oidc.issuer: %w", err)
	}
	for i := range c.Grants {
		if _, err := c.Grants[i].compile(); err != nil {
			return fmt.Errorf("oidc.grants[%d].%w", i, err)
		}
	}
	return nil
}

// grant is a Grant as requests use it.
type grant struct {
	Grant
	scopes Scopes
	policy []*labels.Matcher
}

func (g *Grant) compile() (grant, error) {
	c := grant{Grant: *g}
	var err error
	if c.scopes, err = ParseScopes(g.Scopes); err != nil {
		return c, err
	}
	c.policy, err = parsePolicy(g.LabelPolicy)
	operator, narrowed := c.scopes.Has(Operator), g.LabelPolicy != "" || len(g.LabelClaims) > 0
	switch {
	case err != nil:
		return c, err
	case c.scopes == 0:
		return c, fieldError("scopes", "must not be empty")
	case operator && (len(g.Tenants) > 0 || g.TenantClaim != ""):
		return c, fieldError("scopes", "operator is not for a grant of tenants; leave tenants and tenant_claim out")
	case !operator && (len(g.Tenants) > 0) == (g.TenantClaim != ""):
		return c, fieldError("tenants", "want either tenants or tenant_claim")
	case narrowed && c.scopes&^policyScopes != 0:
		return c, fieldError("scopes", "a grant that is narrowed by labels may have %v only, or it could get around that", policyScopes.Names())
	}
	for _, id := range g.Tenants {
		if _, err := ParseID(string(id)); err != nil {
			return c, fieldError("tenants", "%s", err)
		}
	}
	for name := range g.LabelClaims {
		if name == "" || name == Label || name == OriginalLabel {
			return c, fieldError("label_claims", "%q is no label of a series", name)
		}
	}
	return c, checkPolicy(g.LabelPolicy)
}

// grantOf is the first of the grants that claims have.
func grantOf(grants []grant, claims map[string]any) *grant {
	for i := range grants {
		if grants[i].isFor(claims) {
			return &grants[i]
		}
	}
	return nil
}

func (g *grant) isFor(claims map[string]any) bool {
	for name, want := range g.Claims {
		if !slices.Contains(valuesOf(claims, name), want) {
			return false
		}
	}
	return true
}

// principal is who has the claims.
func (g *grant) principal(claims map[string]any) (*Principal, error) {
	sub := valuesOf(claims, "sub")
	if len(sub) != 1 || sub[0] == "" {
		return nil, errClaim("sub", "it must say who somebody is")
	}
	p := &Principal{name: "subject " + sub[0], scopes: g.scopes, tenants: g.Tenants, policy: slices.Clip(g.policy)}
	if g.TenantClaim != "" {
		for _, name := range valuesOf(claims, g.TenantClaim) {
			id, err := ParseID(name)
			if err != nil {
				return nil, errClaim(g.TenantClaim, "a value of it is no tenant's id")
			}
			p.tenants = append(p.tenants, id)
		}
		slices.Sort(p.tenants)
		p.tenants = slices.Compact(p.tenants)
		// Nobody's tenants are not everybody's.
		if len(p.tenants) == 0 {
			return nil, errClaim(g.TenantClaim, "it must name a tenant")
		}
	}
	for _, label := range slices.Sorted(maps.Keys(g.LabelClaims)) {
		m, err := matcherOf(label, valuesOf(claims, g.LabelClaims[label]))
		if err != nil {
			return nil, errClaim(g.LabelClaims[label], "it must have a value that is not empty")
		}
		p.policy = append(p.policy, m)
	}
	return p, nil
}

func errClaim(name, why string) error {
	return wire.Errorf(wire.Forbidden, "err-token-claims", "the token's claim %q is not as this service wants it: %s", name, why)
}

// matcherOf selects series whose label has one of the values. An empty one
// would select series without the label.
func matcherOf(label string, values []string) (*labels.Matcher, error) {
	values = slices.DeleteFunc(values, func(v string) bool { return v == "" })
	switch len(values) {
	case 0:
		return nil, fmt.Errorf("no value for %s", label)
	case 1:
		return labels.NewMatcher(labels.MatchEqual, label, values[0])
	}
	for i, v := range values {
		values[i] = regexp.QuoteMeta(v)
	}
	return labels.NewMatcher(labels.MatchRegexp, label, strings.Join(values, "|"))
}

// valuesOf is the values of a claim, as text. What is neither text, a number
// nor a boolean is no value.
func valuesOf(claims map[string]any, name string) []string {
	v, ok := claims[name]
	if !ok {
		outer, rest, nested := strings.Cut(name, ".")
		inner, isObject := claims[outer].(map[string]any)
		if !nested || !isObject {
			return nil
		}
		return valuesOf(inner, rest)
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var values []string
	for _, v := range list {
		switch v := v.(type) {
		case string:
			values = append(values, v)
		case json.Number:
			values = append(values, v.String())
		case bool:
			values = append(values, fmt.Sprint(v))
		}
	}
	return values
}
