package bucket

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// The kinds of object storage.
const (
	TypeFilesystem = "filesystem"
	TypeS3         = "s3"
)

// Config says where objects are kept.
type Config struct {
	Type       string           `yaml:"type"` // "filesystem" or "s3"
	Filesystem FilesystemConfig `yaml:"filesystem"`
	S3         S3Config         `yaml:"s3"`
}

// FilesystemConfig is a folder as object storage: for one machine, or for
// several that mount the same folder.
type FilesystemConfig struct {
	Dir string `yaml:"dir"` // empty: "bucket" in the data directory
}

// S3Config is a bucket of an S3-compatible service that has conditional writes
// (If-None-Match and If-Match), as AWS, MinIO, Ceph and Cloudflare R2 do.
type S3Config struct {
	Endpoint        string `yaml:"endpoint"` // host or host:port, no scheme
	Bucket          string `yaml:"bucket"`   // exists already
	Region          string `yaml:"region"`   // empty: asked from the service
	AccessKeyID     string `yaml:"access_key_id"`
	SecretAccessKey Secret `yaml:"secret_access_key"` // with no key id: from the environment, the AWS credentials file or the machine's IAM role
	Insecure        bool   `yaml:"insecure"`          // http instead of https
	Prefix          string `yaml:"prefix"`            // of all keys, where the bucket is shared with others
}

// Secret is a string that is never printed, logged or marshalled.
type Secret string

const masked = "********"

// String returns stars, or nothing where there is no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// MarshalText hides the secret from YAML, JSON and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the secret as it is written.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = Secret(text)
	return nil
}

// DefaultConfig is a folder in the data directory.
func DefaultConfig() Config { return Config{Type: TypeFilesystem} }

// Validate reports the first setting that cannot work.
func (c *Config) Validate() error {
	switch c.Type {
	case TypeFilesystem:
		return nil
	case TypeS3:
		return c.S3.validate()
	default:
		return fmt.Errorf("type is %q: it can be %q or %q", c.Type, TypeFilesystem, TypeS3)
	}
}

func (c *S3Config) validate() error {
	switch {
	case c.Endpoint == "":
		return errors.New("s3.endpoint is empty: set the service's host, for example s3.eu-central-1.amazonaws.com")
	case strings.Contains(c.Endpoint, "/"):
		return fmt.Errorf("s3.endpoint is %q: write host or host:port without scheme and path (s3.insecure chooses http)", c.Endpoint)
	case c.Bucket == "":
		return errors.New("s3.bucket is empty: set the name of an existing bucket")
	case (c.AccessKeyID == "") != (c.SecretAccessKey == ""):
		return errors.New("s3.access_key_id and s3.secret_access_key: set both or none")
	}
	if c.Prefix == "" {
		return nil
	}
	if err := Key(c.Prefix).Validate(); err != nil {
		return fmt.Errorf("s3.prefix: %w", err)
	}
	return nil
}

// New opens the object storage that cfg names. It makes a missing folder, but
// does not ask an S3 service whether it is there: a process starts while its
// storage is away, and each operation says what is wrong. The Bucket is an
// io.Closer too, for who wants to give back idle connections.
func New(cfg Config, dataDir string, logger *slog.Logger, reg prometheus.Registerer) (Bucket, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("bucket: %w", err)
	}
	m := newMetrics(reg)
	if cfg.Type == TypeS3 {
		b, err := newS3(cfg.S3, defaultS3Bounds(), logger, m)
		if err != nil {
			return nil, fmt.Errorf("open bucket %s at %s: %w", cfg.S3.Bucket, cfg.S3.Endpoint, err)
		}
		return &observed{b, m, ""}, nil
	}
	dir := cfg.Filesystem.Dir
	if dir == "" {
		dir = filepath.Join(dataDir, "bucket")
	}
	b, err := newFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("open bucket folder %s: %w", dir, err)
	}
	return &observed{b, m, ""}, nil
}
