package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/grafana/dskit/kv/codec"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/grafana/dskit/services"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/compactor"
	"github.com/hearth-metrics/hearth/distributor"
	"github.com/hearth-metrics/hearth/ingester"
	"github.com/hearth-metrics/hearth/querier"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/ruler"
	"github.com/hearth-metrics/hearth/storegateway"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

const ingesterRole = "ingester"

// peers is what the parts of this process ask of ingesters, here or elsewhere.
type peers struct {
	writes     distributor.Ingester
	reads      querier.Recent
	membership *ring.Membership // of the ingester in this process

	cluster *ring.Cluster // nil: this process is alone
	way     *way

	haStore      distributor.HAStore // nil: no other distributor
	distributors *ring.Ring          // nil: no other distributor

	rulers, alertmanagers *ring.Ring // nil: there are none in other processes, or nobody here asks
}

// findPeers hands out the ingester of this process, or, where there are others,
// the ring of all. What it adds to a.parts starts before, and stops after, those
// that use it: started first is stopped last, and what was acknowledged is in
// the ingester.
func (a *App) findPeers(b bucket.Bucket, ing *ingester.Ingester) (*peers, error) {
	m := a.cfg.members()
	if m.Alone() {
		a.parts = append(a.parts, part{"tenants", a.registry}, part{"ingester", ing})
		return &peers{writes: ing, reads: ing}, nil
	}
	c, err := ring.New(m, a.cfg.DataDir, a.cfg.Server.GRPCListenAddress, []codec.Codec{distributor.HACodec{}, ruler.ChangesCodec{}, tenant.NewsCodec{}}, a.logger, a.reg)
	if err != nil {
		return nil, err
	}
	err = c.Seal(func(cfg *memberlist.KVConfig) error {
		door, err := a.transport.SealGossip(cfg)
		if err == nil {
			a.parts = append(a.parts, part{"gossip-door", door})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	news, err := c.Store("tenants", tenant.NewsCodec{})
	if err != nil {
		return nil, err
	}
	a.registry.Share(news)
	shards, err := c.Shards(func(id tenant.ID) int { return a.registry.Limits(id).ShardSize })
	if err != nil {
		return nil, err
	}
	r, err := c.Ring(ingesterRole, shards)
	if err != nil {
		return nil, err
	}
	a.operators.Handle("/memberlist", c).Methods(http.MethodGet)
	a.operators.Handle("/ring", r).Methods(http.MethodGet, http.MethodPost)
	a.operators.Handle("/ingester/ring", r).Methods(http.MethodGet, http.MethodPost)

	a.parts = append(a.parts, part{"series-secret", services.NewIdleService(a.shareSecret(bucket.For(b, "start")), nil)})
	w := &way{id: c.InstanceID(), dial: a.transport.Dial, conns: map[string]*conn{}}
	a.parts = append(a.parts, part{"gossip", c}, part{"tenants", a.registry}, part{"ring", r}, part{"shards", shards}, part{"connections", services.NewIdleService(nil, w.close)})
	p := &peers{cluster: c, way: w}
	if ing == nil {
		p.writes = distributor.NewReplicas(r, "", nil, w.to)
	} else {
		ing.ShareLimits(func(id tenant.ID) (copies, members int) { return r.ReplicationFactor(), shards.Writes(id) })
		if ranges := a.cfg.Compactor.Ranges; r.ReplicationFactor() > 1 {
			ing.CutUpTo(time.Duration(ranges[len(ranges)-1]))
		}
		w.self = ing.Server()
		wire.RegisterIngester(a.grpc, w.self)
		a.parts = append(a.parts, part{"ingester", ing})
		p.writes = distributor.NewReplicas(r, c.InstanceID(), ing, w.to)
		if p.membership, err = r.Join(); err != nil {
			return nil, err
		}
		l := &leaver{app: a, ing: ing, membership: p.membership}
		l.register(a.operators)
	}
	p.reads = querier.NewReplicas(r, w.to, a.registry.Limits)
	if a.cfg.runs(targetDistributor) {
		return p, a.joinDistributors(c, p)
	}
	return p, nil
}

// seriesSecret is where a cluster's wire.Secret is. Whoever comes first draws it.
var seriesSecret = bucket.OwnHome.Join("series-secret")

// secretPatience is how long a start waits for it.
const secretPatience = 5 * time.Second

// shareSecret has this process give series the Keys that all members give them.
// If that cannot be, writes go between it and others with all labels.
func (a *App) shareSecret(b bucket.Bucket) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, secretPatience)
		defer cancel()
		s, err := commonSecret(ctx, b)
		if err != nil {
			a.logger.Warn("the secret that series are named with cannot be read from the bucket; until the next start writes between this member and others cost more", "object", seriesSecret, "err", err)
			return nil
		}
		wire.UseSecret(s)
		return nil
	}
}

func commonSecret(ctx context.Context, b bucket.Bucket) (s wire.Secret, err error) {
	for {
		data, _, err := bucket.ReadAll(ctx, b, seriesSecret)
		switch {
		case err == nil && len(data) == len(s):
			return wire.Secret(data), nil
		case err == nil:
			return s, fmt.Errorf("it has %d bytes, not %d", len(data), len(s))
		case !errors.Is(err, bucket.ErrNotFound):
			return s, err
		}
		s = wire.NewSecret()
		_, err = b.Put(ctx, seriesSecret, bytes.NewReader(s[:]), int64(len(s)), bucket.Condition{IfAbsent: true})
		if !errors.Is(err, bucket.ErrPrecondition) {
			return s, err
		}
	}
}

// joinDistributors has the distributor of this process share limits and the
// elections of Prometheus pairs with the others.
func (a *App) joinDistributors(c *ring.Cluster, p *peers) error {
	r, err := c.Ring(targetDistributor, nil)
	if err != nil {
		return err
	}
	member, err := r.Join()
	if err != nil {
		return err
	}
	a.operators.Handle("/distributor/ring", r).Methods(http.MethodGet, http.MethodPost)
	a.parts = append(a.parts, part{"distributors", r}, part{"distributor-membership", member})
	p.distributors = r
	p.haStore, err = c.Store("ha", distributor.HACodec{})
	return err
}

// shareCompactions has the compactor of this process share its work with
// others, if there may be others.
func (a *App) shareCompactions(p *peers, comp *compactor.Compactor) error {
	if p.cluster == nil {
		return nil
	}
	r, err := p.cluster.Ring(targetCompactor, nil)
	if err != nil {
		return err
	}
	member, err := r.Join()
	if err != nil {
		return err
	}
	member.Leave(true) // when it stops: others take its work at once
	a.operators.Handle("/compactor/ring", r).Methods(http.MethodGet, http.MethodPost)
	a.parts = append(a.parts, part{"compactors", r}, part{"compactor-membership", member})
	comp.ShareWork(r.Owns)
	return nil
}

// findGateways hands out the store gateway of this process, or, where there are
// others, the ring of all, which it joins if this process has one.
func (a *App) findGateways(p *peers, gateway *storegateway.Gateway, list *querier.Catalogue) (querier.Stored, error) {
	if p.cluster == nil {
		return querier.NewLocal(list, gateway), nil
	}
	if gateway == nil && !a.cfg.runs(targetQuerier) && !a.cfg.runs(targetRuler) {
		return nil, nil //nolint:nilnil // nobody asks
	}
	r, err := p.cluster.RingOfAny(targetStoreGateway)
	if err != nil {
		return nil, err
	}
	a.operators.Handle("/store-gateway/ring", r).Methods(http.MethodGet, http.MethodPost)
	a.parts = append(a.parts, part{"gateways", r})
	if gateway != nil {
		p.way.store = gateway.Server()
		wire.RegisterStore(a.grpc, p.way.store)
		member, err := r.Join()
		if err != nil {
			return nil, err
		}
		member.Leave(true) // when it stops: nobody needs what it has, others can fetch it
		a.parts = append(a.parts, part{"gateway-membership", member})
	}
	return querier.NewGateways(list, r, p.way.toStore, a.registry.Limits), nil
}

// way is how an ingester or a store gateway is reached.
type way struct {
	id    string              // of this process
	self  wire.IngesterServer // nil if this process is no ingester
	store wire.StoreServer    // nil if this process is no store gateway
	dial  func(addr string, opts ...grpc.DialOption) (*grpc.ClientConn, error)

	mu     sync.Mutex
	conns  map[string]*conn
	closed bool
}

// to is a call where the member is this process, and gRPC otherwise.
func (w *way) to(m ring.Member) (wire.IngesterServer, error) {
	if w.self != nil && m.ID == w.id {
		return local{w.self}, nil
	}
	cc, err := w.conn(m.Addr)
	if err != nil {
		return nil, err
	}
	return wire.NewIngesterClient(cc), nil
}

// toStore is to for a store gateway. What that answers is nobody else's, so
// nothing is copied.
func (w *way) toStore(m ring.Member) (wire.StoreServer, error) {
	if w.store != nil && m.ID == w.id {
		return w.store, nil
	}
	cc, err := w.conn(m.Addr)
	if err != nil {
		return nil, err
	}
	return wire.NewStoreClient(cc), nil
}

// local is an ingester in this process. What it answers is copied where a
// message would be, as the ingester's memory is its own.
type local struct{ wire.IngesterServer }

// Select implements wire.IngesterServer.
func (l local) Select(ctx context.Context, r *wire.SelectRequest, send func(*wire.SeriesFrame) error) error {
	return l.IngesterServer.Select(ctx, r, func(f *wire.SeriesFrame) error { return send(f.Detach()) })
}

type conn struct {
	*grpc.ClientConn
	used time.Time
}

// Connections to members that have not been called for so long are closed:
// members come and go, and some come back at another address.
const connIdle = time.Hour

func (w *way) conn(addr string) (*grpc.ClientConn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if cc, ok := w.conns[addr]; ok {
		cc.used = now
		return cc.ClientConn, nil
	}
	if w.closed {
		return nil, fmt.Errorf("call %s: stopping", addr)
	}
	for other, cc := range w.conns {
		if now.Sub(cc.used) > connIdle {
			_ = cc.Close() // nobody uses it
			delete(w.conns, other)
		}
	}
	cc, err := w.dial(addr, grpc.WithUnaryInterceptor(pushAgain), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectDelay},
		MinConnectTimeout: 2 * time.Second,
	}))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", addr, err)
	}
	w.conns[addr] = &conn{cc, now}
	return cc, nil
}

const (
	// reconnectDelay is how long a member that is back may not be noticed: the
	// next one to restart goes away as soon as the ring knows of the last.
	reconnectDelay = 250 * time.Millisecond
	// reconnectPatience is how long a write waits for a connection that is lost.
	reconnectPatience = time.Second
)

// pushAgain sends a write once more where there was no connection, as soon as
// there is one. Nobody waits for that where the other replicas are there; where
// one of them has just gone, this one is needed.
func pushAgain(ctx context.Context, method string, req, res any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, res, cc, opts...)
	switch req.(type) {
	case *wire.PushRequest, *wire.KeyedRequest:
	default:
		return err
	}
	if status.Code(err) != codes.Unavailable {
		return err
	}
	again, cancel := context.WithTimeout(ctx, reconnectPatience)
	defer cancel()
	if invoke(again, method, req, res, cc, append(opts, grpc.WaitForReady(true))...) == nil {
		return nil
	}
	return err
}

func (w *way) close(error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for addr, cc := range w.conns {
		_ = cc.Close() // what was under way has had its time
		delete(w.conns, addr)
	}
	return nil
}
