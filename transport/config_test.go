package transport

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Config){
		"": func(*Config) {},
		"secret: want at least 16 characters, got 5":         func(c *Config) { c.Secret = "short" },
		"accept_secret: want at least 16 characters, got 1":  func(c *Config) { c.Secret, c.AcceptSecret = secret, "x" },
		"accept_secret: only together with secret":           func(c *Config) { c.AcceptSecret = secret },
		"tls: cert_file, key_file and ca_file belong toge":   func(c *Config) { c.TLS.CertFile, c.TLS.KeyFile = "a", "b" },
		"tls: cert_file, key_file and ca_file belong togeth": func(c *Config) { c.TLS.CAFile = "a" },
		"tls.name: must not be empty":                        func(c *Config) { c.TLS = MemberTLS{CertFile: "a", KeyFile: "b", CAFile: "c"} },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if err := cfg.Validate(); want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
	require.NoError(t, (&HTTPTLS{}).Validate())
	require.NoError(t, (&HTTPTLS{CertFile: "a", KeyFile: "b"}).Validate())
	require.ErrorContains(t, (&HTTPTLS{KeyFile: "b"}).Validate(), "belong together")
	require.ErrorContains(t, (&HTTPTLS{ClientCAFile: "b"}).Validate(), "client_ca_file: only together")
}

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	cfg := withSecret(DefaultConfig(), secret)
	asJSON, err := json.Marshal(cfg)
	require.NoError(t, err)
	for _, text := range []string{string(asJSON), fmt.Sprint(cfg), fmt.Sprintf("%+v %#v %q", cfg, cfg, cfg.Secret)} {
		require.Contains(t, text, masked)
		require.NotContains(t, text, "horse")
	}
	require.Empty(t, fmt.Sprint(Secret("")))

	short := Config{Secret: "too short"}
	require.NotContains(t, short.Validate().Error(), "too short")
}
