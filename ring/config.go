package ring

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// Config is how data is spread over the members.
type Config struct {
	Store             string     `yaml:"store"`              // where members find each other: memberlist (gossip), consul or etcd; empty: memberlist if memberlist.join is set, else this process is alone
	ReplicationFactor int        `yaml:"replication_factor"` // ingesters that hold each series; 0: three in a cluster, one when alone
	Consul            StoreAddrs `yaml:"consul"`             // only with store consul
	Etcd              StoreAddrs `yaml:"etcd"`               // only with store etcd
}

// StoreAddrs is where another system listens.
type StoreAddrs struct {
	Endpoints string `yaml:"endpoints"` // host:port, several separated by commas
}

// Instance is who this process is among the members.
type Instance struct {
	ID               string `yaml:"id"`                // unique and the same after a restart; empty: the host's name
	Zone             string `yaml:"zone"`              // where it runs, for example a data centre; if set, replicas are spread over zones
	AdvertiseAddress string `yaml:"advertise_address"` // host or host:port at which others reach it; empty: the first private address, and the ports it listens on
}

// MemberlistConfig is the gossip between members.
type MemberlistConfig struct {
	BindAddress  string `yaml:"bind_address"`  // IP address to listen on
	BindPort     int    `yaml:"bind_port"`     // port to listen on
	Join         string `yaml:"join"`          // host:port of some members, separated by commas, or a DNS name as in dns+name:port; the process's own may be among them
	ClusterLabel string `yaml:"cluster_label"` // members with another label are strangers; give each cluster its own
}

// Members is everything that New needs to know.
type Members struct {
	Ring       Config
	Instance   Instance
	Memberlist MemberlistConfig
}

// The stores that members can find each other in.
const (
	storeMemberlist = "memberlist"
	storeConsul     = "consul"
	storeEtcd       = "etcd"
)

// DefaultMembers is a process that is alone.
func DefaultMembers() Members {
	return Members{Memberlist: MemberlistConfig{BindAddress: "0.0.0.0", BindPort: 7946}}
}

// Alone says that there are no other members.
func (m *Members) Alone() bool { return m.store() == "" }

func (m *Members) store() string {
	if m.Ring.Store == "" && m.Memberlist.Join != "" {
		return storeMemberlist
	}
	return m.Ring.Store
}

// ReplicationFactor is how many members hold each item.
func (m *Members) ReplicationFactor() int {
	switch {
	case m.Ring.ReplicationFactor > 0:
		return m.Ring.ReplicationFactor
	case m.Alone():
		return 1
	default:
		return 3
	}
}

// Validate reports what cannot work, with its key.
func (m *Members) Validate() error {
	var errs []error
	switch m.Ring.Store {
	case "", storeMemberlist:
	case storeConsul:
		errs = append(errs, endpoints("ring.consul.endpoints", m.Ring.Consul.Endpoints, 1))
	case storeEtcd:
		errs = append(errs, endpoints("ring.etcd.endpoints", m.Ring.Etcd.Endpoints, 100))
	default:
		errs = append(errs, fmt.Errorf("ring.store: want memberlist, consul or etcd, got %q", m.Ring.Store))
	}
	if m.Ring.ReplicationFactor < 0 || m.Ring.ReplicationFactor > 9 {
		errs = append(errs, fmt.Errorf("ring.replication_factor: want 1 to 9, or 0 for the default, got %d", m.Ring.ReplicationFactor))
	}
	if m.Alone() && m.Ring.ReplicationFactor > 1 {
		errs = append(errs, errors.New("ring.replication_factor: a process that is alone holds one copy; set memberlist.join"))
	}
	if net.ParseIP(m.Memberlist.BindAddress) == nil {
		errs = append(errs, fmt.Errorf("memberlist.bind_address: want an IP address, got %q", m.Memberlist.BindAddress))
	}
	if p := m.Memberlist.BindPort; p < 1 || p > 65535 {
		errs = append(errs, fmt.Errorf("memberlist.bind_port: want 1 to 65535, got %d", p))
	}
	return errors.Join(errs...)
}

func endpoints(key, list string, most int) error {
	addrs := commaList(list)
	if len(addrs) == 0 || len(addrs) > most {
		return fmt.Errorf("%s: want 1 to %d addresses, got %d", key, most, len(addrs))
	}
	for _, a := range addrs {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("%s: want host:port, got %q", key, a)
		}
	}
	return nil
}

func commaList(s string) (out []string) {
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
