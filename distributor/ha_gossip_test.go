package distributor

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/grafana/dskit/dns"
	"github.com/grafana/dskit/flagext"
	"github.com/grafana/dskit/kv/codec"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// silent is the logger that dskit wants.
type silent struct{}

func (silent) Log(...any) error { return nil }

// gossiper is a distributor with a gossip of its own.
type gossiper struct {
	kv *memberlist.KV
	*Distributor
}

func newGossiper(t *testing.T, join ...string) *gossiper {
	t.Helper()
	cfg := memberlist.KVConfig{}
	cfg.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError)) // its defaults
	cfg.NodeName, cfg.RandomizeNodeName = "node", true
	cfg.TCPTransport.BindAddrs, cfg.TCPTransport.BindPort = flagext.StringSlice{"127.0.0.1"}, 0
	cfg.JoinMembers = join
	cfg.LeaveTimeout = 100 * time.Millisecond
	cfg.Codecs = []codec.Codec{HACodec{}}
	logger, reg := silent{}, prometheus.NewRegistry()
	g := &gossiper{kv: memberlist.NewKV(cfg, logger, dns.NewProvider(dns.GolangResolverType, 0, logger, reg), reg)}
	require.NoError(t, services.StartAndAwaitRunning(context.Background(), g.kv))
	store, err := memberlist.NewClient(g.kv, HACodec{})
	require.NoError(t, err)
	l := tenant.DefaultLimits()
	l.HADedupe, l.MaxHAClusters = true, 0
	g.Distributor, err = New(DefaultConfig(), nowhere{}, store, func(tenant.ID) *tenant.Limits { return &l }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	require.NoError(t, services.StartAndAwaitRunning(context.Background(), g.Distributor))
	t.Cleanup(func() {
		require.NoError(t, services.StopAndAwaitTerminated(context.Background(), g.Distributor))
		require.NoError(t, services.StopAndAwaitTerminated(context.Background(), g.kv))
	})
	return g
}

func (g *gossiper) addr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(g.kv.GetListeningPort()))
}

func (g *gossiper) decide(cluster, replica string) haVerdict {
	return g.ha.decide("t", g.limits("t"), cluster, replica)
}

// elected is the elected replica of each cluster.
func (g *gossiper) elected() map[string]string {
	out := map[string]string{}
	for _, p := range g.ha.shown() {
		out[p.Cluster] = p.Replica
	}
	return out
}

// Over real gossip, three distributors that elect different replicas for many
// pairs at once agree soon, and one that comes later hears of all.
func TestHAGossip(t *testing.T) {
	t.Parallel()
	one := newGossiper(t)
	nodes := []*gossiper{one, newGossiper(t, one.addr()), newGossiper(t, one.addr())}

	const pairs = 500
	for i := range pairs {
		for n, g := range nodes {
			g.decide(fmt.Sprint("c", i), []string{"a", "b", "c"}[(n+i)%3])
		}
	}
	agree := func() bool {
		want := nodes[0].elected()
		for _, g := range nodes {
			for cluster, replica := range g.elected() {
				if want[cluster] != replica {
					return false
				}
			}
		}
		return len(want) == pairs
	}
	began := time.Now()
	until(t, agree)
	t.Logf("%d pairs agreed upon after %s", pairs, time.Since(began))

	began = time.Now()
	require.Equal(t, haStored, nodes[2].decide("new", "z"))
	until(t, func() bool { return nodes[0].elected()["new"] == "z" && nodes[1].elected()["new"] == "z" })
	t.Logf("one pair told after %s", time.Since(began))
	require.Equal(t, haDropped, nodes[0].decide("new", "y"))

	late := newGossiper(t, one.addr())
	until(t, func() bool { return len(late.elected()) == pairs+1 })
	require.Equal(t, nodes[0].elected(), late.elected())
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, time.Minute, 5*time.Millisecond)
}
