package querier

import (
	"cmp"
	"context"
	"strings"

	"github.com/hearth-metrics/hearth/tenant"
)

// owners is whose data a request reads.
type owners struct {
	ids     []tenant.ID
	several bool           // their series are told apart by tenant.Label
	limits  *tenant.Limits // of the request as a whole
	asker   string         // who asks, where it is about several
}

func (q *Querier) whose(ctx context.Context) (owners, error) {
	ids, several, err := tenant.AllFromContext(ctx)
	if err != nil {
		return owners{}, err
	}
	o := owners{ids: ids, several: several, limits: q.limits(ids[0])}
	if !several {
		return o, nil
	}
	if p := tenant.PrincipalFrom(ctx); p != nil {
		o.asker = p.Name()
	}
	whole := *o.limits
	for _, id := range ids[1:] {
		narrowest(&whole, q.limits(id))
	}
	o.limits = &whole
	return o, nil
}

// narrowest makes of whole what holds for a query that others have a part in.
// What can only be measured of the query as a whole is held to the smallest of
// their limits. Each has its own limit of series for its part, so that the
// whole may have as many as the largest.
func narrowest(whole, other *tenant.Limits) {
	whole.MaxQueryLength = lesser(whole.MaxQueryLength, other.MaxQueryLength)
	whole.MaxQueryExpression = lesser(whole.MaxQueryExpression, other.MaxQueryExpression)
	whole.MaxSamplesPerQuery = lesser(whole.MaxSamplesPerQuery, other.MaxSamplesPerQuery)
	whole.MaxResponseSize = lesser(whole.MaxResponseSize, other.MaxResponseSize)
	whole.QueryTimeout = lesser(whole.QueryTimeout, other.QueryTimeout)
	whole.MaxQueries = lesser(whole.MaxQueries, other.MaxQueries)
	if whole.MaxSeriesPerQuery > 0 && (other.MaxSeriesPerQuery == 0 || other.MaxSeriesPerQuery > whole.MaxSeriesPerQuery) {
		whole.MaxSeriesPerQuery = other.MaxSeriesPerQuery
	}
}

// lesser is the smaller of two limits; 0 is none.
func lesser[N cmp.Ordered](a, b N) N {
	var none N
	if a == none || (b != none && b < a) {
		return b
	}
	return a
}

// line is where the request waits for its turn. Those about several tenants
// wait in a line of who asks: he is one among the tenants, however he combines
// them.
func (o owners) line() tenant.ID {
	if o.several {
		return tenant.ID("|" + o.asker) // no tenant is called so
	}
	return o.ids[0]
}

// name is for the log.
func (o owners) name() tenant.ID {
	const most = 3
	var names []string
	for _, id := range o.ids[:min(len(o.ids), most)] {
		names = append(names, string(id))
	}
	if len(o.ids) > most {
		names = append(names, "...")
	}
	return tenant.ID(strings.Join(names, "|"))
}

// divided calls f with each tenant's part of what was counted of all together.
func divided(ids []tenant.ID, n int, f func(id tenant.ID, n int)) {
	for i, id := range ids {
		part := n / len(ids)
		if i < n%len(ids) {
			part++
		}
		f(id, part)
	}
}
