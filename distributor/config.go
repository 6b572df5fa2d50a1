package distributor

import "errors"

// Config bounds what the door takes in.
type Config struct {
	MaxRequestBytes  int `yaml:"max_request_bytes"`  // of one request, decompressed
	MaxInflightBytes int `yaml:"max_inflight_bytes"` // of all requests in progress, in memory
}

// DefaultConfig suits a process with some GiB of memory.
func DefaultConfig() Config {
	return Config{MaxRequestBytes: 64 << 20, MaxInflightBytes: 512 << 20}
}

// Validate names the first key that cannot work.
func (c *Config) Validate() error {
	switch {
	case c.MaxRequestBytes < 1<<10:
		return errors.New("max_request_bytes: must be at least 1024")
	case c.MaxInflightBytes < 3*c.MaxRequestBytes:
		return errors.New("max_inflight_bytes: must be at least three times max_request_bytes, or one large request would never fit")
	}
	return nil
}
