package transport

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/go-kit/log" //nolint:depguard // dskit is handed one
	"github.com/grafana/dskit/dns"
	"github.com/grafana/dskit/flagext"
	"github.com/grafana/dskit/kv/codec"
	"github.com/grafana/dskit/kv/memberlist"
	dsring "github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/transport/transporttest"
)

// gossiper is a member that gossips about who is in a ring.
type gossiper struct {
	*node
	kv    *memberlist.Client
	store *memberlist.KV
	addr  string
}

func gossipConfig(name string, join ...string) *memberlist.KVConfig {
	cfg := &memberlist.KVConfig{}
	cfg.RegisterFlags(flag.NewFlagSet("", flag.PanicOnError)) // its defaults
	cfg.NodeName, cfg.AdvertiseAddr = name, "127.0.0.1"
	cfg.TCPTransport.BindAddrs, cfg.TCPTransport.BindPort = flagext.StringSlice{"127.0.0.1"}, 0
	cfg.JoinMembers = join
	cfg.PushPullInterval = time.Second
	cfg.LeaveTimeout = 100 * time.Millisecond
	cfg.Codecs = []codec.Codec{dsring.GetCodec()}
	return cfg
}

func startGossip(t *testing.T, n *node, cfg *memberlist.KVConfig) *gossiper {
	t.Helper()
	door, err := n.SealGossip(cfg)
	require.NoError(t, err)
	startService(t, door)
	resolver := dns.NewProvider(dns.GolangResolverType, 0, log.NewNopLogger(), prometheus.NewRegistry())
	store := memberlist.NewKV(*cfg, log.NewNopLogger(), resolver, prometheus.NewRegistry())
	startService(t, store)
	client, err := memberlist.NewClient(store, dsring.GetCodec())
	require.NoError(t, err)
	return &gossiper{node: n, kv: client, store: store, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(store.GetListeningPort()))}
}

func startService(t *testing.T, s services.Service) {
	t.Helper()
	require.NoError(t, services.StartAndAwaitRunning(context.Background(), s))
	t.Cleanup(func() { require.NoError(t, services.StopAndAwaitTerminated(context.Background(), s)) })
}

// tell puts a name into the ring, knows says whether it has arrived.
func (g *gossiper) tell(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, g.kv.CAS(t.Context(), "ring", func(in any) (any, bool, error) {
		d, _ := in.(*dsring.Desc)
		if d == nil {
			d = dsring.NewDesc()
		}
		d.AddIngester(name, "10.0.0.1:1", "", []uint32{uint32(time.Now().UnixNano())}, dsring.ACTIVE, time.Now(), false, time.Time{}, nil)
		return d, true, nil
	}))
}

func (g *gossiper) knows(t *testing.T, name string) bool {
	t.Helper()
	v, err := g.kv.Get(t.Context(), "ring")
	require.NoError(t, err)
	d, _ := v.(*dsring.Desc)
	if d == nil {
		return false
	}
	_, ok := d.Ingesters[name]
	return ok
}

func TestGossipWithoutTLSIsLeftAlone(t *testing.T) {
	t.Parallel()
	n := newNode(t, DefaultConfig(), HTTPTLS{})
	cfg := gossipConfig("a")
	startService(t, func() services.Service { g, err := n.SealGossip(cfg); require.NoError(t, err); return g }())
	require.False(t, cfg.TCPTransport.TLSEnabled)
	require.Zero(t, cfg.TCPTransport.BindPort)
}

func TestGossipWantsItsAddresses(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	n := newNode(t, memberConfig(ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)), HTTPTLS{})
	cfg := gossipConfig("a")
	cfg.AdvertiseAddr = ""
	_, err := n.SealGossip(cfg)
	require.ErrorContains(t, err, "one to advertise")
}

// Three members gossip, and while they do, each gets a certificate from a new
// authority, and then trusts no other. What one tells the others still learn.
func TestGossipOverTLS(t *testing.T) {
	t.Parallel()
	old, young := transporttest.NewCA(t), transporttest.NewCA(t)
	var folders []transporttest.Files
	var all []*gossiper
	for i := range 3 {
		f := old.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), old, young)
		cfg := gossipConfig(fmt.Sprint("member-", i))
		if i > 0 {
			cfg.JoinMembers = flagext.StringSliceCSVMulti{all[0].addr}
		}
		folders, all = append(folders, f), append(all, startGossip(t, newNode(t, memberConfig(f), HTTPTLS{}), cfg))
	}
	everyoneHears := func(from *gossiper, name string) {
		from.tell(t, name)
		for _, g := range all {
			until(t, func() bool { return g.knows(t, name) }, name)
			require.Zero(t, g.value(t, refused, doorGossip), g.log)
		}
	}
	everyoneHears(all[0], "before")

	end := time.Now().Add(3 * time.Hour).Truncate(time.Second)
	renew := func(what string, trusts ...*transporttest.CA) {
		for i, g := range all {
			young.Issue(transporttest.Leaf{NotAfter: end}).Write(t, folders[i].Dir, trusts...)
			until(t, func() bool { return g.value(t, expiry, "cluster.tls") == float64(end.Unix()) }, what)
		}
	}
	renew("new certificates", old, young)
	everyoneHears(all[1], "between")
	end = end.Add(time.Hour)
	renew("trust in the new authority only", young)
	everyoneHears(all[2], "after")
	for _, g := range all {
		_, err := shove(g.addr, young, old.Issue(transporttest.Leaf{}).TLS(t))
		require.ErrorContains(t, err, "unknown certificate authority")
	}
}

// Who has no certificate of a member hears nothing and changes nothing.
func TestGossipRefusesStrangers(t *testing.T) {
	t.Parallel()
	ca, other := transporttest.NewCA(t), transporttest.NewCA(t)
	member := startGossip(t, newNode(t, memberConfig(ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)), HTTPTLS{}), gossipConfig("member"))
	member.tell(t, "ours")

	strangers := map[string]*gossiper{}
	plain := gossipConfig("plain", member.addr)
	strangers["plain"] = startGossip(t, newNode(t, DefaultConfig(), HTTPTLS{}), plain)
	// It trusts the member but has its own certificate from elsewhere: what
	// memberlist's own TLS would let in.
	odd := gossipConfig("odd", member.addr)
	f := other.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)
	odd.TCPTransport.TLSEnabled = true
	odd.TCPTransport.TLS.CertPath, odd.TCPTransport.TLS.KeyPath, odd.TCPTransport.TLS.CAPath, odd.TCPTransport.TLS.ServerName = f.Cert, f.Key, f.CA, "hearth"
	strangers["odd"] = startGossip(t, newNode(t, DefaultConfig(), HTTPTLS{}), odd)

	for name, s := range strangers {
		before := member.value(t, refused, doorGossip)
		s.tell(t, "theirs-"+name)
		until(t, func() bool { return member.value(t, refused, doorGossip) > before+2 }, "%s: it tries, and is refused", name)
		require.False(t, member.knows(t, "theirs-"+name), name)
		require.False(t, s.knows(t, "ours"), name)
	}
	require.Contains(t, member.log.String(), "door=gossip reason=tls")
}

// A member that is restarted at the same address is heard again, and stopping
// leaves no connection behind (goleak would tell).
func TestGossipAfterRestart(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	f := ca.Issue(transporttest.Leaf{}).Write(t, t.TempDir(), ca)
	stays := startGossip(t, newNode(t, memberConfig(f), HTTPTLS{}), gossipConfig("stays"))
	port := 0
	for round := range 2 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			cfg := gossipConfig("restarts", stays.addr)
			cfg.TCPTransport.BindPort = port
			g := startGossip(t, newNode(t, memberConfig(f), HTTPTLS{}), cfg)
			port = g.store.GetListeningPort()
			name := fmt.Sprint("round-", round)
			stays.tell(t, name)
			until(t, func() bool { return g.knows(t, name) }, "heard")
			idle, err := net.Dial("tcp", g.addr) // and says nothing
			require.NoError(t, err)
			t.Cleanup(func() { idle.Close() })
		})
	}
}

// What listens inside is memberlist with our certificate, or it gets nothing.
func TestGossipIsNotHandedToAnother(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	leaf := ca.Issue(transporttest.Leaf{})
	n := newNode(t, memberConfig(leaf.Write(t, t.TempDir(), ca)), HTTPTLS{})
	g, err := n.SealGossip(gossipConfig("a"))
	require.NoError(t, err)
	g.inside = fakeServer(t, ca.Issue(transporttest.Leaf{})).Addr().String()
	_, err = g.dialInside(t.Context())
	require.ErrorContains(t, err, "another process")

	_, err = g.ReadSecret(n.members.cert) // as memberlist does when it starts
	require.NoError(t, err)
	_, err = g.dialInside(t.Context())
	require.ErrorContains(t, err, "another process")
	g.inside = fakeServer(t, leaf).Addr().String()
	conn, err := g.dialInside(t.Context())
	require.NoError(t, err)
	conn.Close()
}

// A packet that is cut off on its way does not look whole inside.
func TestGossipPassesOnWhatBreaks(t *testing.T) {
	t.Parallel()
	ca := transporttest.NewCA(t)
	leaf := ca.Issue(transporttest.Leaf{})
	n := newNode(t, memberConfig(leaf.Write(t, t.TempDir(), ca)), HTTPTLS{})
	g, err := n.SealGossip(gossipConfig("a"))
	require.NoError(t, err)
	_, err = g.ReadSecret(n.members.cert)
	require.NoError(t, err)
	inside, err := tls.Listen("tcp", g.inside, &tls.Config{Certificates: []tls.Certificate{leaf.TLS(t)}})
	require.NoError(t, err)
	defer inside.Close()
	startService(t, g)

	for _, cut := range []bool{true, false} {
		conn, err := tls.Dial("tcp", g.addr, &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{leaf.TLS(t)}, ServerName: "hearth"})
		require.NoError(t, err)
		_, err = conn.Write([]byte("half of it"))
		require.NoError(t, err)
		arrived, err := inside.Accept()
		require.NoError(t, err)
		buf := make([]byte, 100)
		k, err := arrived.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "half of it", string(buf[:k]))
		if cut {
			require.NoError(t, conn.NetConn().(*net.TCPConn).SetLinger(0)) // a reset
			require.NoError(t, conn.NetConn().Close())
		} else {
			require.NoError(t, conn.Close())
		}
		_, err = arrived.Read(buf)
		require.Equal(t, !cut, err.Error() == "EOF", err)
		arrived.Close()
	}
	require.NotContains(t, n.log.String(), "not let in")
}
