package e2e

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/go-kit/log" //nolint:depguard // only dskit is handed one
	"github.com/grafana/dskit/dns"
	"github.com/grafana/dskit/flagext"
	"github.com/grafana/dskit/kv"
	"github.com/grafana/dskit/kv/codec"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// intruder joins the gossip, and the ring of ingesters, as a process does whose
// clock is wrong: to it everyone's time is another, to them its heartbeats are
// from another time. Nobody listens where it says that it is.
func (s *story) intruder(w []string) {
	off, err := time.ParseDuration(w[0])
	require.NoError(s.t, err)
	id := "intruder" + w[0]
	store := s.cluster.gossip(id)
	beat := func(ctx context.Context) error {
		return store.CAS(ctx, "ingester", func(in any) (any, bool, error) {
			desc := ring.GetOrCreateRingDesc(in)
			m, known := desc.Ingesters[id]
			if !known {
				m = ring.InstanceDesc{
					Id: id, Addr: fmt.Sprintf("127.0.0.1:%d", freePort(s.t)), Zone: "c", State: ring.ACTIVE,
					Tokens: ring.NewRandomTokenGeneratorWithSeed(1).GenerateTokens(128, desc.GetTokens()),
				}
			}
			m.Timestamp = time.Now().Add(off).Unix()
			desc.Ingesters[id] = m
			return desc, true, nil
		})
	}
	require.NoError(s.t, beat(s.t.Context()))
	beating := services.NewTimerService(time.Second, nil, func(ctx context.Context) error {
		_ = beat(ctx) // where the second is the same, nothing has changed
		return nil
	}, nil)
	s.cluster.run(beating)
	for _, n := range s.cluster.those("", (*node).ingests) {
		until(s.t, patience, n.name+" to know the intruder", func() error {
			members, err := n.ring()
			for _, m := range members {
				if m.ID == id {
					return nil
				}
			}
			return fmt.Errorf("it knows %v (%w)", members, err)
		})
	}
}

// gossip is the cluster's store as one who is called that has it.
func (c *cluster) gossip(name string) kv.Client {
	t := c.t
	var cfg memberlist.KVConfig
	cfg.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError))
	cfg.NodeName, cfg.ClusterLabel = name, c.name
	cfg.AdvertiseAddr = "127.0.0.1"
	cfg.AdvertisePort = freePort(t)
	cfg.TCPTransport.BindAddrs, cfg.TCPTransport.BindPort = flagext.StringSlice{"127.0.0.1"}, cfg.AdvertisePort
	for _, n := range c.nodes {
		cfg.JoinMembers = append(cfg.JoinMembers, fmt.Sprintf("%s:%d", n.host, n.gossip))
	}
	cfg.Codecs = []codec.Codec{ring.GetCodec()}
	reg, logger := prometheus.NewRegistry(), log.NewNopLogger()
	service := memberlist.NewKVInitService(&cfg, logger, dns.NewProvider(dns.GolangResolverType, 0, logger, reg), reg)
	c.run(service)
	var opts kv.Config
	opts.RegisterFlagsWithPrefix("", "", flag.NewFlagSet("", flag.ContinueOnError))
	opts.Store, opts.Prefix, opts.MemberlistKV = "memberlist", "hearth/", service.GetMemberlistKV
	client, err := kv.NewClient(opts, ring.GetCodec(), reg, logger)
	require.NoError(t, err)
	return client
}

func (c *cluster) run(s services.Service) {
	require.NoError(c.t, services.StartAndAwaitRunning(context.Background(), s))
	c.t.Cleanup(func() { _ = services.StopAndAwaitTerminated(context.Background(), s) })
}
