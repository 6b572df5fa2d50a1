package tenant

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Scope is one thing that a token may do. Every route asks for one.
type Scope uint16

// The scopes. What they are called outside is in scopeNames.
const (
	MetricsWrite Scope = 1 << iota
	MetricsRead
	RulesRead
	RulesWrite
	AlertsRead
	AlertsWrite
	Admin    // of the token's own tenant
	Operator // of all of Hearth
)

var scopeNames = []string{
	"metrics:write", "metrics:read", "rules:read", "rules:write",
	"alerts:read", "alerts:write", "tenant:admin", "operator",
}

// DataScopes are those of a tenant's first token: all that its Prometheus and
// its Grafana do, but not to make other tokens.
const DataScopes = Scopes(MetricsWrite | MetricsRead | RulesRead | RulesWrite | AlertsRead | AlertsWrite)

// policyScopes are those that a token with a label policy may have: with any
// other it could get around the policy, by a rule that records what it may not
// see, or by making a token without one.
const policyScopes = Scopes(MetricsWrite | MetricsRead)

// String is the scope's name.
func (s Scope) String() string {
	for i, name := range scopeNames {
		if s == 1<<i {
			return name
		}
	}
	return fmt.Sprintf("scope %d", uint16(s))
}

// AllScopes lists every scope.
func AllScopes() []Scope {
	all := make([]Scope, len(scopeNames))
	for i := range scopeNames {
		all[i] = 1 << i
	}
	return all
}

// Scopes is a set of them. Outside it is a list of names.
type Scopes uint16

// Has says whether the set has a scope.
func (s Scopes) Has(one Scope) bool { return s&Scopes(one) != 0 }

// Names lists the scopes of the set.
func (s Scopes) Names() []string {
	names := []string{}
	for _, one := range AllScopes() {
		if s.Has(one) {
			names = append(names, one.String())
		}
	}
	return names
}

// ParseScopes reads names of scopes.
func ParseScopes(names []string) (Scopes, error) {
	var s Scopes
next:
	for _, name := range names {
		for _, one := range AllScopes() {
			if one.String() == name {
				s |= Scopes(one)
				continue next
			}
		}
		return 0, fieldError("scopes", "scope %q is unknown, there are %s", name, strings.Join(scopeNames, ", "))
	}
	return s, nil
}

// MarshalJSON implements json.Marshaler.
func (s Scopes) MarshalJSON() ([]byte, error) { return json.Marshal(s.Names()) }

// UnmarshalJSON implements json.Unmarshaler.
func (s *Scopes) UnmarshalJSON(data []byte) (err error) {
	var names []string
	if err = json.Unmarshal(data, &names); err == nil {
		*s, err = ParseScopes(names)
	}
	return err
}
