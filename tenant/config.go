package tenant

import (
	"fmt"
	"time"

	"github.com/prometheus/common/model"
)

// How it is known whose a request is.
const (
	ModeHeader = "header"
	ModeToken  = "token"
)

// What becomes of a tenant that the registry does not know.
const (
	UnknownCreate = "create"
	UnknownRefuse = "refuse"
)

// AuthConfig is how it is known who sends a request.
type AuthConfig struct {
	Mode string     `yaml:"mode"` // "token": every request needs one; "header": without a token the header X-Scope-OrgID is believed and operators' routes are open, so that only a trusted proxy may reach Hearth
	OIDC OIDCConfig `yaml:"oidc"`
}

// DefaultAuthConfig trusts the header, as Cortex does.
func DefaultAuthConfig() AuthConfig { return AuthConfig{Mode: ModeHeader} }

// Validate names the first key that cannot work.
func (c *AuthConfig) Validate() error {
	if c.Mode != ModeHeader && c.Mode != ModeToken {
		return fmt.Errorf("mode: want %s or %s, got %q", ModeHeader, ModeToken, c.Mode)
	}
	return c.OIDC.Validate(c.Mode)
}

// Config is what the registry of tenants does.
type Config struct {
	Unknown     string         `yaml:"unknown"`      // a tenant that was not made by the API: "create" (it is served with the default limits) or "refuse"
	DeleteDelay model.Duration `yaml:"delete_delay"` // how long a deletion can be undone; then the tenant's data goes
}

// DefaultConfig serves whoever the header names, as Cortex does.
func DefaultConfig() Config {
	return Config{Unknown: UnknownCreate, DeleteDelay: model.Duration(24 * time.Hour)}
}

// Validate names the first key that cannot work.
func (c *Config) Validate() error {
	switch {
	case c.Unknown != UnknownCreate && c.Unknown != UnknownRefuse:
		return fmt.Errorf("unknown: want %s or %s, got %q", UnknownCreate, UnknownRefuse, c.Unknown)
	case c.DeleteDelay < 0:
		return fmt.Errorf("delete_delay: must not be negative")
	}
	return nil
}
