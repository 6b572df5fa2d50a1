package tenant

import (
	"context"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/hearth-metrics/hearth/wire"
)

// Label tells the series of several tenants apart in the answer to a read of
// all of them. Its name, and that of OriginalLabel, are those of Cortex and
// Mimir.
const (
	Label         = "__tenant_id__"
	OriginalLabel = "original_" + Label // what a series has as Label itself
)

// MaxTenants is how many tenants one request may read.
const MaxTenants = 1000

func errSeveral() error {
	return wire.Errorf(wire.Invalid, "err-several-tenants", "several tenants can be queried together, nothing else; name one tenant in the header %s", Header)
}

func errTooManyTenants(n int) error {
	return wire.Errorf(wire.Invalid, "err-too-many-tenants", "the request reads %d tenants, the limit is %d; name fewer", n, MaxTenants)
}

// WithIDs returns a context that carries several tenants, whose data is read as
// one. There may be one of them only: its series have the Label all the same.
func WithIDs(ctx context.Context, ids []ID) context.Context {
	return context.WithValue(ctx, contextKey{}, ids)
}

// AllFromContext returns the tenants whose data a read is about, sorted, and
// whether they were asked for as several. It is for those who can read several
// at once; all others ask FromContext.
func AllFromContext(ctx context.Context) (ids []ID, several bool, err error) {
	if ids, ok := ctx.Value(contextKey{}).([]ID); ok {
		return ids, true, nil
	}
	id, err := FromContext(ctx)
	return []ID{id}, false, err
}

// named is whose data a request says that it is about.
type named struct {
	ids      []ID              // sorted, each once
	selector []*labels.Matcher // not nil: in their place, all tenants with such labels
}

func (n named) several() bool { return n.selector != nil || len(n.ids) > 1 }

// parseNames reads one id, several as in a|b, or a selector of tenants by their
// labels, as {env="prod"}.
func parseNames(s string) (n named, err error) {
	if strings.HasPrefix(s, "{") {
		ms, err := parseSelector(s)
		if err != nil {
			return n, wire.Errorf(wire.Invalid, "err-tenant-invalid", "want a selector of tenants like {env=\"prod\"}: %s", err)
		}
		return named{selector: append([]*labels.Matcher{}, ms...)}, nil // {} is all tenants
	}
	for name := range strings.SplitSeq(s, "|") {
		id, err := ParseID(name)
		if err != nil {
			return named{}, err
		}
		n.ids = append(n.ids, id)
	}
	slices.Sort(n.ids)
	n.ids = slices.Compact(n.ids)
	if len(n.ids) > MaxTenants {
		return named{}, errTooManyTenants(len(n.ids))
	}
	return n, nil
}

// selected is the tenants of the registry with such labels that may be read.
// Label itself stands for the id.
func (r *Registry) selected(ms []*labels.Matcher) ([]ID, error) {
	var ids []ID
	for n := range tenantShards {
		for id, t := range r.shards[n].Load().tenants {
			if (t.Status == Active || t.Status == ReadOnly) && t.hasLabels(ms) {
				ids = append(ids, id)
			}
		}
	}
	switch {
	case len(ids) == 0:
		return nil, wire.Errorf(wire.NotFound, "err-no-such-tenants", "no tenant that can be read has such labels")
	case len(ids) > MaxTenants:
		return nil, errTooManyTenants(len(ids))
	}
	slices.Sort(ids)
	return ids, nil
}

func (t *Tenant) hasLabels(ms []*labels.Matcher) bool {
	for _, m := range ms {
		value := t.Labels[m.Name]
		if m.Name == Label {
			value = string(t.ID)
		}
		if !m.Matches(value) {
			return false
		}
	}
	return true
}
