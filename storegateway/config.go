package storegateway

import (
	"errors"
	"time"

	"github.com/prometheus/common/model"
)

// Config is how the gateway reads blocks and what it keeps on this machine.
type Config struct {
	RefreshInterval  model.Duration `yaml:"refresh_interval"`   // how often a home's list of blocks is read again, when it is asked for
	MaxIndexDisk     int64          `yaml:"max_index_disk"`     // bytes of block indexes on local disk; 0: a quarter of the disk's free space at start
	ChunkCacheMemory int64          `yaml:"chunk_cache_memory"` // bytes of chunk data kept in memory
	ChunkCacheDisk   int64          `yaml:"chunk_cache_disk"`   // bytes of chunk data kept on local disk; 0: a tenth of the disk's free space at start, at most 16 GiB; -1: none
}

// DefaultConfig suits production.
func DefaultConfig() Config {
	return Config{
		RefreshInterval:  model.Duration(30 * time.Second),
		ChunkCacheMemory: 128 << 20,
	}
}

// maxRefreshInterval keeps what the gateway knows much younger than the time
// for which ingesters keep the blocks that they have shipped.
const maxRefreshInterval = 2 * time.Minute

// Validate names the first key that cannot work.
func (c *Config) Validate() error {
	switch d := time.Duration(c.RefreshInterval); {
	case d <= 0 || d > maxRefreshInterval:
		return errors.New("storegateway.refresh_interval: must be above 0 and at most 2m, so that shipped blocks are seen before ingesters drop them")
	case c.MaxIndexDisk < 0:
		return errors.New("storegateway.max_index_disk: must not be negative; 0 sizes itself")
	case c.ChunkCacheMemory < 0:
		return errors.New("storegateway.chunk_cache_memory: must not be negative")
	case c.ChunkCacheDisk < -1:
		return errors.New("storegateway.chunk_cache_disk: must be -1 (none), 0 (sizes itself) or a number of bytes")
	}
	return nil
}

const (
	maxSelfSizedCache = 16 << 30
	fallbackIndexDisk = 10 << 30
	fallbackCacheDisk = 2 << 30
)

// sized fills in what sizes itself by the free space of the disk that dir is on.
func (c Config) sized(dir string) Config {
	free, ok := freeDisk(dir)
	if c.MaxIndexDisk == 0 {
		c.MaxIndexDisk = fallbackIndexDisk
		if ok {
			c.MaxIndexDisk = free / 4
		}
	}
	if c.ChunkCacheDisk == 0 {
		c.ChunkCacheDisk = fallbackCacheDisk
		if ok {
			c.ChunkCacheDisk = min(free/10, maxSelfSizedCache)
		}
	}
	return c
}
