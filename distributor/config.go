package distributor

import (
	"errors"
	"time"

	"github.com/prometheus/common/model"
)

// Config bounds what the door takes in.
type Config struct {
	MaxRequestBytes  int      `yaml:"max_request_bytes"`  // of one request, decompressed
	MaxInflightBytes int      `yaml:"max_inflight_bytes"` // of all requests in progress, in memory; one tenant has no more of it than is left for others
	HA               HAConfig `yaml:"ha"`
}

// HAConfig is how one of several Prometheus that scrape the same is chosen, for
// tenants with ha_dedupe.
type HAConfig struct {
	FailoverTimeout model.Duration `yaml:"failover_timeout"` // after no sample of the elected replica for so long, another takes over; where replicas send less often than that, it is half as long again as they pause, up to three times this
	MaxHeldBytes    int            `yaml:"max_held_bytes"`   // of requests of replicas that are not elected, held for a while, compressed, so that a failover leaves no hole; one tenant may have a quarter of it; 0: the hole is failover_timeout
}

// DefaultConfig suits a process with some GiB of memory.
func DefaultConfig() Config {
	return Config{
		MaxRequestBytes: 64 << 20, MaxInflightBytes: 512 << 20,
		HA: HAConfig{FailoverTimeout: model.Duration(30 * time.Second), MaxHeldBytes: 128 << 20},
	}
}

// minFailover leaves time for a few rounds of gossip between two refreshes.
const minFailover = 5 * time.Second

// Validate names the first key that cannot work.
func (c *Config) Validate() error {
	switch {
	case c.MaxRequestBytes < 1<<10:
		return errors.New("max_request_bytes: must be at least 1024")
	case c.MaxInflightBytes < 4*c.MaxRequestBytes:
		return errors.New("max_inflight_bytes: must be at least four times max_request_bytes, or one large request would never fit")
	case time.Duration(c.HA.FailoverTimeout) < minFailover:
		return errors.New("ha.failover_timeout: must be at least 5s, or a live replica would be taken for a dead one while distributors tell each other of it")
	case c.HA.MaxHeldBytes < 0:
		return errors.New("ha.max_held_bytes: must not be negative, 0 means that nothing is held")
	}
	return nil
}
