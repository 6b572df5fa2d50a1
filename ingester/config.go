package ingester

import (
	"errors"
	"time"

	"github.com/prometheus/common/model"
)

// Config is how the ingester keeps recent data.
type Config struct {
	BlockRange   model.Duration `yaml:"block_range"`    // time that one block covers; tests shorten it
	IdleCut      model.Duration `yaml:"idle_cut"`       // a head without writes for this long is cut, shipped and, when it is a tenant's own, closed
	KeepShipped  model.Duration `yaml:"keep_shipped"`   // how long a block stays on local disk after the bucket has it
	OwnHeadAbove int            `yaml:"own_head_above"` // active series from which on a tenant gets a head of its own
}

// DefaultConfig suits production.
func DefaultConfig() Config {
	return Config{
		BlockRange:   model.Duration(2 * time.Hour),
		IdleCut:      model.Duration(time.Hour),
		KeepShipped:  model.Duration(time.Hour),
		OwnHeadAbove: 20_000,
	}
}

// minKeepShipped is longer than any querier takes to read the bucket index
// anew and longer than any query runs, so a block is never gone from here
// before it is seen there.
const minKeepShipped = 10 * time.Minute

// Validate names the first key that cannot work.
func (c *Config) Validate() error {
	switch {
	case time.Duration(c.BlockRange) < time.Minute:
		return errors.New("block_range: must be at least 1m")
	case time.Duration(c.IdleCut) < time.Minute:
		return errors.New("idle_cut: must be at least 1m")
	case time.Duration(c.KeepShipped) < minKeepShipped:
		return errors.New("keep_shipped: must be at least 10m, so that every querier has seen the block in the bucket")
	case c.OwnHeadAbove < 1:
		return errors.New("own_head_above: must be at least 1")
	}
	return nil
}
