package transport

import (
	"errors"
	"fmt"
)

// Config is how the members of a cluster know each other.
type Config struct {
	Secret       Secret    `yaml:"secret"`        // members prove to each other over gRPC that they know it, without sending it; at least 16 characters, from openssl rand -hex 32; empty: whoever reaches the port is a member
	AcceptSecret Secret    `yaml:"accept_secret"` // a second secret that others may have while all change from one to another
	TLS          MemberTLS `yaml:"tls"`
}

// MemberTLS is for what members say to each other, gRPC and gossip. It is
// always mutual: both ends show a certificate.
type MemberTLS struct {
	CertFile string `yaml:"cert_file"` // PEM, for gRPC and gossip, with intermediates; for servers and clients (extended key usage); read again when it changes; empty: no TLS between members
	KeyFile  string `yaml:"key_file"`  // PEM, the certificate's key
	CAFile   string `yaml:"ca_file"`   // PEM, the authorities that members' certificates come from, and no others
	Name     string `yaml:"name"`      // DNS name that each member's certificate has, whatever others it has; one without it is refused
}

// HTTPTLS is for users of the HTTP API.
type HTTPTLS struct {
	CertFile     string `yaml:"cert_file"`      // PEM, with intermediates; read again when it changes; empty: no TLS
	KeyFile      string `yaml:"key_file"`       // PEM, the certificate's key
	ClientCAFile string `yaml:"client_ca_file"` // PEM; if set, a client needs a certificate from one of these authorities, for every path
}

// DefaultConfig trusts the network.
func DefaultConfig() Config { return Config{TLS: MemberTLS{Name: "hearth"}} }

// minSecretLength keeps what an eavesdropper sees of the proof from being
// guessed: a shorter secret is a word.
const minSecretLength = 16

// Validate reports the first thing that cannot work, with its key.
func (c *Config) Validate() error {
	for _, s := range []struct {
		key   string
		value Secret
	}{{"secret", c.Secret}, {"accept_secret", c.AcceptSecret}} {
		if n := len(s.value); n > 0 && n < minSecretLength {
			return fmt.Errorf("%s: want at least %d characters, got %d", s.key, minSecretLength, n)
		}
	}
	tls := &c.TLS
	given := present(tls.CertFile, tls.KeyFile, tls.CAFile)
	switch {
	case c.AcceptSecret != "" && c.Secret == "":
		return errors.New("accept_secret: only together with secret")
	case given != 0 && given != 3:
		return errors.New("tls: cert_file, key_file and ca_file belong together")
	case given != 0 && tls.Name == "":
		return errors.New("tls.name: must not be empty")
	}
	return nil
}

// Validate reports the first thing that cannot work, with its key.
func (c *HTTPTLS) Validate() error {
	switch given := present(c.CertFile, c.KeyFile); {
	case given == 1:
		return errors.New("cert_file and key_file belong together")
	case given == 0 && c.ClientCAFile != "":
		return errors.New("client_ca_file: only together with cert_file and key_file")
	}
	return nil
}

func present(texts ...string) (n int) {
	for _, t := range texts {
		if t != "" {
			n++
		}
	}
	return n
}

// Secret is a string that is never printed, logged or marshalled.
type Secret string

const masked = "********"

// String masks the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// GoString masks the secret for %#v.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// MarshalText masks the secret for YAML, JSON and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the secret as it is written.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = Secret(text)
	return nil
}
