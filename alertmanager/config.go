package alertmanager

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"github.com/prometheus/common/model"
)

// Config says how notifications leave. What one tenant may have is in
// tenant.Limits.
type Config struct {
	// ExternalURL is what links in notifications begin with. Empty: the address
	// that HTTP is served on.
	ExternalURL string `yaml:"external_url"`

	// PeerTimeout is how long a replica waits, for each one before it, to see
	// that a notification was sent before it sends it itself.
	PeerTimeout model.Duration `yaml:"peer_timeout"`

	// PrivateAddresses says whether receivers may call loopback, link-local and
	// private addresses: "allow" or "block". Empty: blocked where tenants come
	// with tokens (auth.mode), as they are not to reach what Hearth can reach.
	PrivateAddresses string `yaml:"private_addresses"`

	// AllowedNetworks may be called all the same, for example a mail relay:
	// addresses or networks (10.1.2.3, 10.2.0.0/16), separated by commas.
	AllowedNetworks string `yaml:"allowed_networks"`
}

// What PrivateAddresses may be.
const (
	Allow = "allow"
	Block = "block"
)

// DefaultConfig trusts the tenants, as the header of a proxy is trusted.
func DefaultConfig() Config {
	return Config{PeerTimeout: model.Duration(15 * time.Second)}
}

// Validate names the first key that cannot work.
func (c *Config) Validate() error {
	if u, err := url.Parse(c.ExternalURL); err != nil || (c.ExternalURL != "" && (u.Host == "" || u.Scheme == "")) {
		return fmt.Errorf("external_url: want a URL as in https://example.org/alertmanager, got %q", c.ExternalURL)
	}
	if c.PeerTimeout <= 0 {
		return errors.New("peer_timeout: must be more than 0")
	}
	if p := c.PrivateAddresses; p != "" && p != Allow && p != Block {
		return fmt.Errorf("private_addresses: want %s or %s, got %q", Allow, Block, p)
	}
	_, err := networks(c.AllowedNetworks)
	return err
}

func networks(list string) (nets []netip.Prefix, err error) {
	for _, s := range commaList(list) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			addr, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("allowed_networks: want addresses or networks as in 10.2.0.0/16, got %q", s)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		nets = append(nets, p)
	}
	return nets, nil
}
