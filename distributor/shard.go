package distributor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	// replicaPatience is how long an ingester may take for a request. The
	// request itself waits for a quorum only.
	replicaPatience = 10 * time.Second

	// replicaBacklog is how many bytes may be under way to one ingester. One
	// that is slow or hangs is left out beyond that, and does not fill memory.
	// A single request may be larger.
	replicaBacklog = 64 << 20
)

// Replicas is an Ingester that is many: each series goes to those that hold
// it, and is stored when a quorum of them has it.
type Replicas struct {
	ring   *ring.Ring
	self   string   // id of the member that is this process
	local  Ingester // called directly; nil if this process is no ingester
	remote func(ring.Member) (wire.IngesterServer, error)

	unknown [1024]atomic.Int32 // by tenant, several share one: how many messages go with labels at once

	mu       sync.Mutex
	backlogs map[string]*atomic.Int64 // by address; bytes
}

// NewReplicas makes an Ingester of the members of a ring.
func NewReplicas(r *ring.Ring, self string, local Ingester, remote func(ring.Member) (wire.IngesterServer, error)) *Replicas {
	return &Replicas{ring: r, self: self, local: local, remote: remote, backlogs: map[string]*atomic.Int64{}}
}

// Push implements Ingester. An ingester in this process reads the request
// itself, others get messages, which may be under way when the request is long
// answered: they share no memory with it but r.Compressed, which is then taken.
func (p *Replicas) Push(ctx context.Context, id tenant.ID, r *wire.Request) (wire.Pushed, error) {
	taken := false
	w := &write{
		p: p, ctx: ctx, id: id, r: r,
		whole: sync.OnceValues(func() (wire.PushRequest, error) { taken = true; return wholeMessage(id, r) }),
		keys:  sync.OnceValue(func() *wire.KeyedRequest { return r.Keyed(string(id), nil) }),
	}
	err := p.ring.Write(ctx, id, replicaPatience, w.tokens, w.prepare)
	if taken {
		r.Compressed = nil // it may still be under way
	}
	if err != nil {
		return wire.Pushed{}, err
	}
	return w.result(p.ring.ReplicationFactor()), nil
}

// Needs implements Ingester. Should more members hold the tenant's series by the
// time that it pushes than now, the request works out hashes late. Other members
// are not sent keys of a request 2.0, as that has metadata with every series.
func (p *Replicas) Needs(id tenant.ID, v wire.Version) (n wire.Names) {
	if p.local != nil || v == wire.V1 {
		n = wire.Keys
	}
	if p.ring.ByToken(id) {
		n |= wire.Hashes
	}
	return n
}

// write is one request on its way.
type write struct {
	p   *Replicas
	ctx context.Context //nolint:containedctx // lives as long as the call
	id  tenant.ID
	r   *wire.Request

	// For members that hold everything.
	whole func() (wire.PushRequest, error)
	keys  func() *wire.KeyedRequest // nil: it takes more than keys

	mu      sync.Mutex
	answers []answer
}

// answer is what became of some series at one member.
type answer struct {
	series int // -1: all
	wire.Pushed
}

func (w *write) tokens() []uint32 {
	out := make([]uint32, max(1, len(w.r.Series))) // metadata alone goes somewhere, too
	for i := range w.r.Series {
		out[i] = wire.Token(w.r.Hash(i))
	}
	return out
}

// prepare makes what brings a member its items.
func (w *write) prepare(to ring.Member, items []int) func(context.Context) error {
	if len(w.r.Series) == 0 {
		items = nil // the one item was the metadata
	}
	if to.ID == w.p.self && w.p.local != nil {
		err := w.pushLocal(to, items)
		return func(context.Context) error { return err }
	}
	msg, err := w.message(items)
	if err != nil {
		return func(context.Context) error { return err }
	}
	keyed := w.keyed(items)
	return func(ctx context.Context) error {
		pushed, err := w.p.send(ctx, to, keyed, msg)
		if err == nil {
			w.add(to, items, *pushed)
		}
		return err
	}
}

// afterUnknown is how many messages of a tenant go with labels at once after one
// with keys was in vain: a tenant that has new series in every request so loses
// little, and one that has them now and then gains nearly always.
const afterUnknown = 3

// keyed is the message that may take the place of the one with labels, or nil.
func (w *write) keyed(items []int) *wire.KeyedRequest {
	unknown := w.p.unknownOf(w.id)
	if unknown.Load() > 0 {
		unknown.Add(-1)
		return nil
	}
	if items == nil {
		return w.keys()
	}
	return w.r.Keyed(string(w.id), items)
}

func (p *Replicas) unknownOf(id tenant.ID) *atomic.Int32 {
	return &p.unknown[xxhash.Sum64String(string(id))%uint64(len(p.unknown))]
}

func (w *write) pushLocal(to ring.Member, items []int) error {
	r := w.r
	if items != nil {
		r = w.r.Part(items)
	}
	pushed, err := w.p.local.Push(w.ctx, w.id, r)
	if err == nil {
		w.add(to, items, pushed)
	}
	return err
}

func (w *write) message(items []int) (wire.PushRequest, error) {
	if items == nil {
		return w.whole()
	}
	msg := wire.PushRequest{Tenant: string(w.id), Without: w.r.Without()}
	var err error
	msg.Body, msg.Version, err = w.r.AppendPart(nil, items)
	return msg, err
}

// wholeMessage is the sender's own bytes, compressed as they came, wherever
// nothing had to be left out.
func wholeMessage(id tenant.ID, r *wire.Request) (wire.PushRequest, error) {
	msg := wire.PushRequest{Tenant: string(id), Version: r.Version, Without: r.Without()}
	if r.Whole() && r.Compressed != nil {
		msg.Snappy, msg.Body = true, r.Compressed
		return msg, nil
	}
	items := make([]int, len(r.Series))
	for i := range items {
		items[i] = i
	}
	var err error
	msg.Body, msg.Version, err = r.AppendPart(make([]byte, 0, r.BodySize()), items)
	return msg, err
}

// send brings a member what it is to store: by the keys of the series if it knows
// them, else with their labels.
func (p *Replicas) send(ctx context.Context, to ring.Member, keyed *wire.KeyedRequest, msg wire.PushRequest) (*wire.Pushed, error) {
	client, err := p.remote(to)
	if err != nil {
		return nil, err
	}
	size := int64(len(msg.Body))
	if keyed != nil {
		size += int64(len(keyed.Body))
	}
	backlog := p.backlog(to)
	defer backlog.Add(-size)
	if now := backlog.Add(size); now > replicaBacklog && now > size {
		return nil, errBehind
	}
	if keyed != nil {
		copied := *keyed
		answer, err := client.PushKeyed(ctx, &copied)
		if err != nil {
			return nil, err
		}
		if answer.Known {
			return &wire.Pushed{Samples: keyed.Samples, Series: answer.Series}, nil
		}
		p.unknownOf(tenant.ID(msg.Tenant)).Store(afterUnknown)
	}
	return client.Push(ctx, &msg)
}

// errBehind says that an ingester has not answered what it was sent before.
var errBehind = errors.New("ingester is behind")

func (p *Replicas) backlog(to ring.Member) *atomic.Int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.backlogs[to.Addr]
	if b == nil {
		b = new(atomic.Int64)
		p.backlogs[to.Addr] = b
	}
	return b
}

func (w *write) add(from ring.Member, items []int, p wire.Pushed) {
	w.p.ring.Observe(w.id, from, p.Series)
	w.mu.Lock()
	defer w.mu.Unlock()
	a := answer{series: len(items), Pushed: p}
	if items == nil {
		a.series = -1
	}
	w.answers = append(w.answers, a)
}

// result is what a quorum of the replicas says. Where all members got all, it
// is the answer of the one that completes a quorum of those who refused least;
// where each got its share, it is the sum, divided by how many got each series.
func (w *write) result(rf int) wire.Pushed {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.answers[0].series < 0 {
		slices.SortFunc(w.answers, func(a, b answer) int { return a.Refused.Total() - b.Refused.Total() })
		return w.answers[min(rf/2, len(w.answers)-1)].Pushed
	}
	var sum wire.Pushed
	series := 0
	for i := range w.answers {
		a := &w.answers[i]
		series += a.series
		sum.Samples += a.Samples
		sum.Histograms += a.Histograms
		sum.Exemplars += a.Exemplars
		sum.Refused.Merge(&a.Refused)
	}
	share := func(n int) int { return (n*len(w.r.Series) + series - 1) / series }
	sum.Samples, sum.Histograms, sum.Exemplars = share(sum.Samples), share(sum.Histograms), share(sum.Exemplars)
	for i := range sum.Refused.Counts {
		sum.Refused.Counts[i].Count = share(sum.Refused.Counts[i].Count)
	}
	return sum
}
