package alertmanager

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/hearth-metrics/hearth/wire"
)

// firewall decides which addresses receivers may call. It looks at the address
// that is dialled, after names are resolved, so a name that changes its address
// gets no further than others, nor does a redirect.
type firewall struct {
	block   bool
	allowed []netip.Prefix
}

func newFirewall(cfg Config) (firewall, error) {
	nets, err := networks(cfg.AllowedNetworks)
	return firewall{cfg.PrivateAddresses == Block, nets}, err
}

// notPublic are addresses that lead to inside somewhere and that net/netip does
// not call private: shared address space, protocol assignments, benchmarks,
// what embeds an IPv4 address, what is reserved.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("::/96"),
}

// check says whether an address may be called.
func (f firewall) check(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if !f.block {
		return nil
	}
	for _, n := range f.allowed {
		if n.Contains(addr) {
			return nil
		}
	}
	inside := addr.IsLoopback() || addr.IsPrivate() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() || addr.IsMulticast()
	for _, n := range notPublic {
		inside = inside || n.Contains(addr)
	}
	if inside {
		return wire.Errorf(wire.Forbidden, "err-receiver-address", "receivers may not call %s, it is not a public address", addr)
	}
	return nil
}

const dialTimeout = 10 * time.Second

// dial connects to where check lets it.
func (f firewall) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("call %s: %w", address, err)
		}
		return f.check(ap.Addr())
	}}
	return d.DialContext(ctx, network, addr)
}

// resolve finds an address of a host that may be called, for those who dial
// themselves.
func (f firewall) resolve(ctx context.Context, host string) (netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, addr := range addrs {
		if err = f.check(addr); err == nil {
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, err
}

func commaList(s string) (out []string) {
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
