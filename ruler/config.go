package ruler

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/prometheus/common/model"
)

// Config says how rules are evaluated. What one tenant may have is in
// tenant.Limits.
type Config struct {
	// EvaluationInterval is how often a group is evaluated that has no interval
	// of its own.
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`

	// ExternalURL is where people look at metrics, for example Grafana. Alerts
	// link to it, and templates have it as $externalURL.
	ExternalURL string `yaml:"external_url"`
}

// DefaultConfig is that of Prometheus.
func DefaultConfig() Config {
	return Config{EvaluationInterval: model.Duration(time.Minute)}
}

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	if c.EvaluationInterval <= 0 {
		return errors.New("evaluation_interval must be greater than 0")
	}
	if _, err := url.Parse(c.ExternalURL); err != nil {
		return fmt.Errorf("external_url: %w", err)
	}
	return nil
}
