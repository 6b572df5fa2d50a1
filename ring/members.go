package ring

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/grafana/dskit/dns"
	"github.com/grafana/dskit/flagext"
	"github.com/grafana/dskit/kv"
	"github.com/grafana/dskit/kv/codec"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/grafana/dskit/netutil"
	dsring "github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
)

// Cluster is this process among the others: the gossip, or the store, in which
// rings are kept. It is a service; rings start after it.
type Cluster struct {
	services.Service

	members Members
	dir     string // where tokens are kept
	logger  *slog.Logger
	reg     prometheus.Registerer
	gossip  *memberlist.KVInitService // nil: the store is another
	config  *memberlist.KVConfig      // of gossip; in use from the first Store on
	codecs  []codec.Codec
}

// New makes the membership of a process that is not alone. grpcAddr is what it
// listens on; dataDir is where it keeps its tokens. codecs are of what else is
// shared besides rings.
func New(m Members, dataDir, grpcAddr string, codecs []codec.Codec, logger *slog.Logger, reg prometheus.Registerer) (*Cluster, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if err := m.Instance.complete(grpcAddr); err != nil {
		return nil, err
	}
	c := &Cluster{members: m, dir: filepath.Join(dataDir, "ring"), logger: logger, reg: reg, codecs: append(codecs, dsring.GetCodec(), ShardsCodec{})}
	if m.store() != storeMemberlist {
		c.Service = services.NewIdleService(nil, nil)
		return c, nil
	}
	cfg, err := c.gossipConfig()
	if err != nil {
		return nil, err
	}
	resolver := dns.NewProvider(dns.GolangResolverType, 0, kitLogger{logger}, prometheus.WrapRegistererWithPrefix("hearth_memberlist_", reg))
	c.gossip = memberlist.NewKVInitService(cfg, kitLogger{logger}, resolver, prometheus.WrapRegistererWithPrefix("hearth_", reg))
	c.Service, c.config = c.gossip, cfg
	return c, nil
}

// Seal lets f put TLS around the gossip, if there is gossip. It is called
// before anything else.
func (c *Cluster) Seal(f func(*memberlist.KVConfig) error) error {
	if c.config == nil {
		return nil
	}
	return f(c.config)
}

// complete fills in what was left to us.
func (i *Instance) complete(grpcAddr string) (err error) {
	if i.ID == "" {
		if i.ID, err = os.Hostname(); err != nil {
			return fmt.Errorf("instance.id: %w", err)
		}
	}
	listenHost, listenPort, err := net.SplitHostPort(grpcAddr)
	if err != nil {
		return fmt.Errorf("server.grpc_listen_address: %w", err)
	}
	host, port, err := net.SplitHostPort(i.AdvertiseAddress)
	if err != nil { // no port
		host, port = i.AdvertiseAddress, listenPort
	}
	if ip := net.ParseIP(listenHost); host == "" && ip != nil && !ip.IsUnspecified() {
		host = listenHost
	}
	if host == "" {
		if host, err = netutil.GetFirstAddressOf(netutil.PrivateNetworkInterfacesWithFallback([]string{"eth0", "en0"}, kitLogger{slog.New(slog.DiscardHandler)}), kitLogger{slog.New(slog.DiscardHandler)}, false); err != nil {
			return fmt.Errorf("instance.advertise_address: %w", err)
		}
	}
	i.AdvertiseAddress = net.JoinHostPort(host, port)
	return nil
}

func (c *Cluster) gossipConfig() (*memberlist.KVConfig, error) {
	cfg := &memberlist.KVConfig{}
	cfg.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError)) // its defaults
	host, _, err := net.SplitHostPort(c.members.Instance.AdvertiseAddress)
	if err != nil {
		return nil, fmt.Errorf("instance.advertise_address: %w", err)
	}
	m := c.members.Memberlist
	cfg.NodeName, cfg.RandomizeNodeName = c.members.Instance.ID, true
	cfg.AdvertiseAddr, cfg.AdvertisePort = host, m.BindPort
	cfg.ClusterLabel = m.ClusterLabel
	cfg.JoinMembers = flagext.StringSliceCSVMulti(commaList(m.Join))
	cfg.AbortIfJoinFails = false // the first member has nobody to join
	cfg.RejoinInterval = rejoinInterval
	cfg.LeaveTimeout = leaveTimeout
	cfg.TCPTransport.BindAddrs = flagext.StringSlice{m.BindAddress}
	cfg.TCPTransport.BindPort = m.BindPort
	cfg.Codecs = c.codecs
	return cfg, nil
}

// Store opens the shared store for values of a codec.
func (c *Cluster) Store(name string, cd codec.Codec) (kv.Client, error) {
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"store_for": name}, prometheus.WrapRegistererWithPrefix("hearth_", c.reg))
	var cfg kv.Config
	flagext.DefaultValues(&storeDefaults{&cfg})
	cfg.Store, cfg.Prefix = c.members.store(), "hearth/"
	switch cfg.Store {
	case storeConsul:
		cfg.Consul.Host = c.members.Ring.Consul.Endpoints
	case storeEtcd:
		cfg.Etcd.Endpoints = commaList(c.members.Ring.Etcd.Endpoints)
	default:
		cfg.MemberlistKV = c.gossip.GetMemberlistKV
	}
	client, err := kv.NewClient(cfg, cd, reg, kitLogger{c.logger})
	if err != nil {
		return nil, fmt.Errorf("open the store for %s: %w", name, err)
	}
	return client, nil
}

type storeDefaults struct{ cfg *kv.Config }

// RegisterFlags is how dskit's configurations tell their defaults.
func (d *storeDefaults) RegisterFlags(f *flag.FlagSet) {
	d.cfg.RegisterFlagsWithPrefix("", "", f)
}

// InstanceID is who this process is.
func (c *Cluster) InstanceID() string { return c.members.Instance.ID }

// ServeHTTP shows the gossip.
func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.gossip == nil {
		http.Error(w, "the members of this cluster find each other in "+c.members.store(), http.StatusNotFound)
		return
	}
	c.gossip.ServeHTTP(w, r)
}
