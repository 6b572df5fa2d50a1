package querier

import (
	"errors"
	"time"

	"github.com/prometheus/common/model"

	"github.com/hearth-metrics/hearth/cores"
)

// Config says how queries are run. What one tenant may ask is in
// tenant.Limits.
type Config struct {
	// Timeout ends a query, the wait for its turn included. A client may ask
	// for less with the parameter timeout.
	Timeout model.Duration `yaml:"timeout"`

	// MaxConcurrent is the number of queries that run at once in this process;
	// more wait, the tenants taking turns. 0: twice the cores, at least four.
	MaxConcurrent int `yaml:"max_concurrent"`

	// RefreshInterval is how often the list of a home's blocks in the bucket is
	// read again, when it is asked for. Until then what is shipped is read from
	// the ingesters; blocks that others put into the bucket are seen so much
	// later, and an ingester that leaves waits so long.
	RefreshInterval model.Duration `yaml:"refresh_interval"`

	// LookbackDelta is how old the newest sample of a series may be to count as
	// its current value. A client may ask for another with lookback_delta.
	LookbackDelta model.Duration `yaml:"lookback_delta"`

	// DelayedNameRemoval drops the metric's name at the end of an evaluation
	// instead of at each step: Prometheus' feature flag
	// promql-delayed-name-removal, for those who set it there.
	DelayedNameRemoval bool `yaml:"delayed_name_removal"`

	// Version is what the program calls itself in status/buildinfo. The app
	// sets it.
	Version string `yaml:"-"`
}

// DefaultConfig is that of Prometheus.
func DefaultConfig() Config {
	return Config{
		Timeout:         model.Duration(2 * time.Minute),
		RefreshInterval: model.Duration(5 * time.Minute),
		LookbackDelta:   model.Duration(5 * time.Minute),
	}
}

// maxRefreshInterval keeps the list of blocks much younger than the time for
// which ingesters keep the blocks that they have shipped.
const maxRefreshInterval = 5 * time.Minute

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	switch {
	case c.Timeout <= 0:
		return errors.New("timeout must be greater than 0")
	case c.MaxConcurrent < 0:
		return errors.New("max_concurrent must be 0 (twice the cores) or more")
	case c.RefreshInterval <= 0 || time.Duration(c.RefreshInterval) > maxRefreshInterval:
		return errors.New("refresh_interval must be above 0 and at most 5m, so that shipped blocks are seen before ingesters drop them")
	case c.LookbackDelta <= 0:
		return errors.New("lookback_delta must be greater than 0")
	}
	return nil
}

// slots is how many queries run at once.
func (c Config) slots() int {
	if c.MaxConcurrent > 0 {
		return c.MaxConcurrent
	}
	return max(4, 2*cores.Count())
}
