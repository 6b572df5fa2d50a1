package compactor

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
)

// Config is how blocks are merged and removed.
type Config struct {
	Ranges        []model.Duration `yaml:"ranges"`         // lengths of time that blocks are merged to, ascending, each a multiple of the one before; the first is that of the ingesters' blocks
	Wait          model.Duration   `yaml:"wait"`           // how long after its end blocks of a range are merged, so that all ingesters have shipped theirs; at least a quarter of the range
	Interval      model.Duration   `yaml:"interval"`       // how often to look for what is due
	DeletionDelay model.Duration   `yaml:"deletion_delay"` // how long after their replacement blocks are deleted; longer than any reader's list of blocks is old
	Concurrency   int              `yaml:"concurrency"`    // compactions at once, each with its blocks on local disk; 0: half as many as there are CPUs

	// Series of one part, those of replicas each counted, by kind of home. A
	// query for a pooled tenant opens the index of one part; a large tenant's
	// part is what one machine merges at once. Each part costs requests. Tests
	// make them small.
	PoolPart uint64 `yaml:"-"`
	OwnPart  uint64 `yaml:"-"`
}

// DefaultConfig suits production.
func DefaultConfig() Config {
	return Config{
		Ranges:        []model.Duration{model.Duration(2 * time.Hour), model.Duration(12 * time.Hour), model.Duration(24 * time.Hour)},
		Wait:          model.Duration(90 * time.Minute),
		Interval:      model.Duration(15 * time.Minute),
		DeletionDelay: model.Duration(2 * time.Hour),
		PoolPart:      1_000_000,
		OwnPart:       2_000_000,
	}
}

// Validate names the first key that cannot work.
func (c *Config) Validate() error {
	if len(c.Ranges) == 0 {
		return errors.New("compactor.ranges: must not be empty")
	}
	for i, r := range c.Ranges {
		switch {
		case r <= 0:
			return errors.New("compactor.ranges: must be above 0")
		case i > 0 && (r <= c.Ranges[i-1] || r%c.Ranges[i-1] != 0):
			return fmt.Errorf("compactor.ranges: %s is not a multiple of %s", r, c.Ranges[i-1])
		}
	}
	switch {
	case c.Wait < 0:
		return errors.New("compactor.wait: must not be negative")
	case c.Interval <= 0:
		return errors.New("compactor.interval: must be above 0")
	case c.DeletionDelay < 0:
		return errors.New("compactor.deletion_delay: must not be negative")
	case c.Concurrency < 0:
		return errors.New("compactor.concurrency: must not be negative; 0 sizes itself")
	}
	return nil
}
