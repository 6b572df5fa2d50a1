package tenant

import (
	"context"
	"slices"
	"strings"
	"time"
)

// CreateToken makes a token. Its secret is returned and kept nowhere.
func (r *Registry) CreateToken(ctx context.Context, want Token) (Token, string, error) {
	if err := want.validate(r.now()); err != nil {
		return Token{}, "", err
	}
	n := shardOf(want.Tenant)
	e := &tokenEntry{Token: want}
	e.ID = mintID(n)
	var secret string
	secret, e.hash = mintSecret(e.ID)
	e.policy, _ = parsePolicy(want.LabelPolicy) // validated
	err := r.change(ctx, n, func(d *draft) error {
		if t := d.tenants[want.Tenant]; want.Tenant != "" && (t == nil || t.Status == Deleting) {
			return fieldError("tenant", "there is no tenant %q, or it is being deleted", want.Tenant)
		}
		e.CreatedAt, e.Version, e.LastUsedAt = d.at, d.version, time.Time{}
		d.tokens[e.ID] = e
		d.note(ctx, n, AuditEntry{Action: "token.create", Tenant: want.Tenant, Object: e.ID, Detail: strings.Join(want.Scopes.Names(), ", ")})
		return nil
	})
	if err != nil {
		return Token{}, "", err
	}
	return e.Token, secret, nil
}

// Owner says whose tokens somebody may see and change: those of a tenant, or
// all.
type Owner struct {
	Tenant ID
	All    bool
}

func (o Owner) owns(t *tokenEntry) bool { return t != nil && (o.All || t.Tenant == o.Tenant) }

// Token returns a token.
func (r *Registry) Token(o Owner, id string) (Token, error) {
	if n, ok := shardOfToken(id); ok {
		if t := r.shards[n].Load().tokens[id]; o.owns(t) {
			return r.lastUse(t.Token), nil
		}
	}
	return Token{}, errNotFound("token", id)
}

// Tokens lists the tokens of an owner, in order of their ids.
func (r *Registry) Tokens(o Owner) []Token {
	list := []Token{}
	first, last := shardOf(o.Tenant), shardOf(o.Tenant)
	if o.All {
		first, last = 0, shards-1
	}
	for n := first; n <= last; n++ {
		for _, t := range r.shards[n].Load().tokens {
			if o.owns(t) {
				list = append(list, r.lastUse(t.Token))
			}
		}
	}
	slices.SortFunc(list, func(a, b Token) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// RotateToken gives a token another secret. The old one is refused from then on;
// where that is too hard, a second token does it softly.
func (r *Registry) RotateToken(ctx context.Context, o Owner, id string) (Token, string, error) {
	secret, hash := mintSecret(id)
	var after Token
	err := r.changeToken(ctx, o, id, "token.rotate", func(d *draft, t tokenEntry) {
		t.hash, t.Version = hash, d.version
		after, d.tokens[id] = t.Token, &t
	})
	return after, secret, err
}

// RevokeToken removes a token.
func (r *Registry) RevokeToken(ctx context.Context, o Owner, id string) error {
	return r.changeToken(ctx, o, id, "token.revoke", func(d *draft, _ tokenEntry) { delete(d.tokens, id) })
}

func (r *Registry) changeToken(ctx context.Context, o Owner, id, action string, f func(*draft, tokenEntry)) error {
	n, ok := shardOfToken(id)
	if !ok {
		return errNotFound("token", id)
	}
	return r.change(ctx, n, func(d *draft) error {
		t := d.tokens[id]
		if !o.owns(t) {
			return errNotFound("token", id)
		}
		f(d, *t)
		d.note(ctx, n, AuditEntry{Action: action, Tenant: t.Tenant, Object: id})
		return nil
	})
}
