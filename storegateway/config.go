package storegateway

import "errors"

// Config is how the gateway reads blocks and what it keeps on this machine.
type Config struct {
	MaxIndexDisk     int64 `yaml:"max_index_disk"`     // bytes of block indexes on local disk; 0: a quarter of the disk's free space at start
	ChunkCacheMemory int64 `yaml:"chunk_cache_memory"` // bytes of chunk data kept in memory
	ChunkCacheDisk   int64 `yaml:"chunk_cache_disk"`   // bytes of chunk data kept on local disk; 0: a tenth of the disk's free space at start, at most 16 GiB; -1: none
}

// DefaultConfig suits production.
func DefaultConfig() Config {
	return Config{
		ChunkCacheMemory: 128 << 20,
	}
}

// Validate names the first key that cannot work.
func (c *Config) Validate() error {
	switch {
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
