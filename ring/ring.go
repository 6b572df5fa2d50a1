// Package ring is WHERE: which members of the cluster hold what.
//
// In comes what a tenant writes or asks, with a token for each series; out go
// the members to send it to, and the answer once enough of them have given
// theirs. It is dskit's ring over memberlist gossip, narrowed to four
// questions: place, write to a quorum, read from a quorum, what do I own.
//
// Start reading at Ring, then write.go and read.go; members.go is how members
// find each other, member.go how this process becomes one of them.
package ring

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	dsring "github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hearth-metrics/hearth/tenant"
)

const (
	heartbeatPeriod  = 5 * time.Second
	heartbeatTimeout = 45 * time.Second // a member that was not heard of for so long is asked no more
	forgetAfter      = 15 * time.Minute // and after that it is not a member any more
	rejoinInterval   = time.Minute      // heals a cluster that was cut in two
	leaveTimeout     = 5 * time.Second
	tokensPerMember  = 128
)

// Member is a member as others see it.
type Member struct {
	ID   string
	Addr string // of gRPC, host:port
	Zone string
}

// Ring is the members that share one kind of work, for example all ingesters.
// It is a service that follows their comings and goings. Safe for concurrent use.
type Ring struct {
	services.Service

	cluster *Cluster
	role    string
	ring    *dsring.Ring
	rf      int
	shards  *Shards // nil: everyone's data is spread over all
	logger  *slog.Logger
}

// Ring follows the members of a role. shards may be nil: all for everyone.
func (c *Cluster) Ring(role string, shards *Shards) (*Ring, error) {
	return c.follow(role, shards, dsring.NewDefaultReplicationStrategy())
}

// RingOfAny follows the members of a role of whom any one will do, see Holders.
func (c *Cluster) RingOfAny(role string) (*Ring, error) {
	return c.follow(role, nil, dsring.NewIgnoreUnhealthyInstancesReplicationStrategy())
}

func (c *Cluster) follow(role string, shards *Shards, strategy dsring.ReplicationStrategy) (*Ring, error) {
	store, err := c.Store(role, dsring.GetCodec())
	if err != nil {
		return nil, err
	}
	cfg := dsring.Config{
		HeartbeatTimeout:     heartbeatTimeout,
		ReplicationFactor:    c.members.ReplicationFactor(),
		ZoneAwarenessEnabled: c.members.Instance.Zone != "",
		StatusPageConfig:     dsring.StatusPageConfig{HideTokensUIElements: true},
	}
	reg := prometheus.WrapRegistererWithPrefix("hearth_", c.reg)
	r, err := dsring.NewWithStoreClientAndStrategy(cfg, role, role, store, strategy, reg, kitLogger{c.logger})
	if err != nil {
		return nil, fmt.Errorf("ring of %s: %w", role, err)
	}
	return &Ring{Service: r, cluster: c, role: role, ring: r, rf: cfg.ReplicationFactor, shards: shards, logger: c.logger}, nil
}

// Healthy is how many members can be asked now, at least one: whoever divides
// by it is one of them.
func (r *Ring) Healthy() int {
	set, err := r.ring.GetAllHealthy(dsring.Reporting)
	if err != nil {
		return 1
	}
	return max(1, len(set.Instances))
}

// Members are those that take work now, in the order of their IDs. One that
// stops is not among them, one that was killed is until it is missed.
func (r *Ring) Members() []Member {
	set, err := r.ring.GetAllHealthy(active)
	if err != nil { // nobody has joined yet
		return nil
	}
	members := make([]Member, len(set.Instances))
	for i := range set.Instances {
		members[i] = member(&set.Instances[i])
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return members
}

var active = dsring.NewOp([]dsring.InstanceState{dsring.ACTIVE}, nil)

// Observe tells how many active series of a tenant a member holds, by which the
// tenant's shard grows.
func (r *Ring) Observe(id tenant.ID, m Member, series int) {
	if r.shards != nil {
		r.shards.Observe(id, m.ID, series)
	}
}

// ReplicationFactor is how many members hold each item.
func (r *Ring) ReplicationFactor() int { return r.rf }

// ServeHTTP shows the members, and forgets one on a POST.
func (r *Ring) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.ring.ServeHTTP(w, req) }

func member(d *dsring.InstanceDesc) Member { return Member{ID: d.Id, Addr: d.Addr, Zone: d.Zone} }
