package ruler

import (
	"slices"
	"strings"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// sources are the tenants whose data a group reads, where it names some. They
// are asked for at each evaluation, because what is allowed may change.
func (r *Ruler) sources(id tenant.ID, g *Group) ([]tenant.ID, error) {
	var ids []tenant.ID
	for _, name := range g.SourceTenants {
		source, err := tenant.ParseID(name)
		if err != nil {
			return nil, err
		}
		if source != id && !allows(r.Limits(id).RuleSourceTenants, source) {
			return nil, wire.Errorf(wire.Invalid, "err-rules-source-tenants",
				"group %q reads the tenant %s, which the rules of %s may not (limit rule_source_tenants). Leave it out, or ask those who run Hearth to allow it", g.Name, source, id)
		}
		if s := r.Status(source); s != tenant.Active && s != tenant.ReadOnly {
			return nil, wire.Errorf(wire.Forbidden, "err-rules-source-tenants", "group %q reads the tenant %s, which is not to be read now", g.Name, source)
		}
		ids = append(ids, source)
	}
	if len(ids) > tenant.MaxTenants {
		return nil, wire.Errorf(wire.Invalid, "err-rules-source-tenants", "group %q reads %d tenants, the limit is %d; divide it", g.Name, len(ids), tenant.MaxTenants)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// allows says whether a list of tenants, as the limit has it, names one.
func allows(list string, id tenant.ID) bool {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "*" || name == string(id) {
			return true
		}
	}
	return false
}
