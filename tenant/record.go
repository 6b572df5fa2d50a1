package tenant

import (
	"fmt"
	"regexp"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/hearth-metrics/hearth/wire"
)

// Status is what a tenant may do at all.
type Status string

// The states of a tenant.
const (
	Active    Status = "active"
	ReadOnly  Status = "read_only" // no writes
	Suspended Status = "suspended" // neither writes nor reads
	Deleting  Status = "deleting"  // as suspended; its data goes, then its record
)

// Tenant is the record of a tenant. It is not changed once it is in the
// registry; who changes a tenant puts another record in its place.
type Tenant struct {
	ID          ID                `json:"id"`
	DisplayName string            `json:"display_name,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Status      Status            `json:"status"`
	Plan        string            `json:"plan,omitempty"`
	Limits      Overrides         `json:"limits,omitempty"`
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
	Version     int64             `json:"version"` // of the record; the ETag of the API
	Deletion    *Deletion         `json:"deletion,omitempty"`
}

// Deletion is how far a deletion has come.
type Deletion struct {
	RequestedAt time.Time `json:"requested_at"`
	RemoveAfter time.Time `json:"remove_after"` // until then it can be undone
	Before      Status    `json:"before"`       // what the tenant was, and is again when it is undone
}

// Plan is a named set of limits that many tenants have.
type Plan struct {
	Name      string     `json:"name"`
	Source    PlanSource `json:"source,omitempty"` // told, not stored
	Limits    Overrides  `json:"limits"`
	UpdatedAt time.Time  `json:"updated_at,omitzero"` // of the API's plans
	Version   int64      `json:"version,omitempty"`   // of the API's plans
}

// PlanSource is where a plan is from, and can be changed.
type PlanSource string

// The sources of plans. Where both have one of a name, the configuration's
// counts: it is what an operator reads when he asks what holds.
const (
	PlanOfConfig PlanSource = "config"
	PlanOfAPI    PlanSource = "api"
)

// Token is what a token may do, without its secret.
type Token struct {
	ID          string    `json:"id"`
	Tenant      ID        `json:"tenant,omitempty"` // "": an operator's
	Name        string    `json:"name,omitempty"`
	Scopes      Scopes    `json:"scopes"`
	LabelPolicy string    `json:"label_policy,omitempty"` // a selector that every read is narrowed by
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	CreatedAt   time.Time `json:"created_at"`
	LastUsedAt  time.Time `json:"last_used_at,omitzero"` // coarse: a day
	Version     int64     `json:"version"`
}

// Bounds on what a record holds: all records are in every process' memory.
const (
	maxNameLength = 200
	maxLabels     = 32
	maxPolicy     = 1024
)

var (
	planName  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)
	labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,62}$`)
)

// FieldError is an Invalid error about one field of a request.
type FieldError struct {
	Field string
	*wire.UserError
}

// Unwrap gives the error its kind.
func (e *FieldError) Unwrap() error { return e.UserError }

func fieldError(field, format string, args ...any) error {
	return &FieldError{field, wire.Errorf(wire.Invalid, "err-field-invalid", "%s: %s", field, fmt.Sprintf(format, args...))}
}

func (t *Tenant) validate() error {
	if _, err := ParseID(string(t.ID)); err != nil {
		if t.ID == "" {
			return fieldError("id", "must not be empty")
		}
		return &FieldError{"id", wire.Errorf(wire.Invalid, "err-tenant-invalid", "id: %s", err)}
	}
	if len(t.DisplayName) > maxNameLength {
		return fieldError("display_name", "is %d bytes long, the limit is %d", len(t.DisplayName), maxNameLength)
	}
	switch t.Status {
	case Active, ReadOnly, Suspended, Deleting:
	default:
		return fieldError("status", "%q is unknown, there are %s, %s and %s", t.Status, Active, ReadOnly, Suspended)
	}
	if len(t.Labels) > maxLabels {
		return fieldError("labels", "there are %d, the limit is %d", len(t.Labels), maxLabels)
	}
	for name, value := range t.Labels {
		if !labelName.MatchString(name) || len(value) > maxNameLength {
			return fieldError("labels."+name, "want a name of letters, digits and _, and a value of at most %d bytes", maxNameLength)
		}
	}
	return t.Limits.Validate()
}

func (p *Plan) validate() error {
	if !planName.MatchString(p.Name) {
		return fieldError("name", "want 1 to 63 letters, digits and _ . -, got %q", p.Name)
	}
	return p.Limits.Validate()
}

func (t *Token) validate(now time.Time) error {
	switch {
	case len(t.Name) > maxNameLength:
		return fieldError("name", "is %d bytes long, the limit is %d", len(t.Name), maxNameLength)
	case t.Scopes == 0:
		return fieldError("scopes", "must not be empty")
	case t.Tenant != "" && t.Scopes.Has(Operator):
		return fieldError("scopes", "operator is not for a token of a tenant; leave tenant empty")
	case !t.ExpiresAt.IsZero() && !t.ExpiresAt.After(now):
		return fieldError("expires_at", "lies in the past")
	case t.LabelPolicy == "":
		return nil
	case len(t.LabelPolicy) > maxPolicy:
		return fieldError("label_policy", "is %d bytes long, the limit is %d", len(t.LabelPolicy), maxPolicy)
	case t.Scopes&^policyScopes != 0:
		return fieldError("scopes", "a token with a label policy may have %v only, or it could get around the policy", policyScopes.Names())
	}
	return checkPolicy(t.LabelPolicy)
}

// checkPolicy refuses a policy that does not do what it says: no stored series
// has the Label of its tenant.
func checkPolicy(s string) error {
	ms, err := parsePolicy(s)
	for _, m := range ms {
		if m.Name == Label || m.Name == OriginalLabel {
			return fieldError("label_policy", "%s tells tenants apart and is no label of a series; narrow the tenants of the token in its place", m.Name)
		}
	}
	return err
}

// parsePolicy reads a selector like {team="payments"}.
func parsePolicy(s string) ([]*labels.Matcher, error) {
	if s == "" {
		return nil, nil
	}
	ms, err := parseSelector(s)
	if err != nil {
		return nil, fieldError("label_policy", "want a selector like {team=\"payments\"}: %s", err)
	}
	return ms, nil
}

func parseSelector(s string) ([]*labels.Matcher, error) {
	return parser.NewParser(parser.Options{}).ParseMetricSelector(s)
}
