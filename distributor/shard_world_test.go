package distributor

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	dsring "github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// replica is an ingester elsewhere. It keeps what it is sent, whose memory is
// its own.
type replica struct {
	wire.IngesterServer // nil: nothing but pushes is called

	mu     sync.Mutex
	got    []wire.PushRequest
	keyed  []wire.KeyedRequest
	knows  bool
	answer wire.Pushed
	err    error
	hang   chan struct{} // Push returns when it is closed, or its context ends
}

func (r *replica) Push(ctx context.Context, req *wire.PushRequest) (*wire.Pushed, error) {
	r.mu.Lock()
	r.got = append(r.got, *req)
	answer, err, hang := r.answer, r.err, r.hang
	r.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &answer, err
}

// PushKeyed knows no series, but where a test says so.
func (r *replica) PushKeyed(_ context.Context, req *wire.KeyedRequest) (*wire.KeyedAnswer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	r.keyed = append(r.keyed, *req)
	return &wire.KeyedAnswer{Known: r.knows, Series: r.answer.Series}, nil
}

func (r *replica) received() []wire.PushRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// replicas are a ring of ingesters called r0, r1 and so on, and a way to write
// to them.
type replicas struct {
	*Replicas
	all []*replica
}

func newReplicas(t *testing.T, n int, local Ingester) *replicas {
	t.Helper()
	w := &replicas{}
	byAddr := map[string]*replica{}
	var members []ring.Member
	for i := range n {
		m := ring.Member{ID: fmt.Sprint("r", i), Addr: fmt.Sprint("r", i, ":1")}
		members, w.all = append(members, m), append(w.all, &replica{})
		byAddr[m.Addr] = w.all[i]
	}
	w.Replicas = NewReplicas(newRing(t, members), "r0", local, func(m ring.Member) (wire.IngesterServer, error) {
		if local != nil && m.ID == "r0" {
			return nil, fmt.Errorf("%s is this process", m.ID)
		}
		return byAddr[m.Addr], nil
	})
	return w
}

// newRing is a ring of members that are there and nothing else.
func newRing(t *testing.T, members []ring.Member) *ring.Ring {
	t.Helper()
	m := ring.DefaultMembers()
	m.Ring.Store, m.Memberlist.BindAddress, m.Memberlist.BindPort = "memberlist", "127.0.0.1", freePort(t)
	c, err := ring.New(m, t.TempDir(), "127.0.0.1:1", nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	r, err := c.Ring("ingester", nil)
	require.NoError(t, err)
	run(t, c)
	store, err := c.Store("test", dsring.GetCodec())
	require.NoError(t, err)
	tokens := dsring.NewRandomTokenGenerator()
	require.NoError(t, store.CAS(t.Context(), "ingester", func(any) (any, bool, error) {
		d := dsring.NewDesc()
		for _, m := range members {
			d.AddIngester(m.ID, m.Addr, m.Zone, tokens.GenerateTokens(128, d.GetTokens()), dsring.ACTIVE, time.Now(), false, time.Time{}, nil)
		}
		return d, true, nil
	}))
	run(t, r)
	until(t, func() bool { return r.Healthy() == len(members) })
	return r
}

func run(t *testing.T, s services.Service) {
	t.Helper()
	require.NoError(t, services.StartAndAwaitRunning(context.Background(), s))
	t.Cleanup(func() { require.NoError(t, services.StopAndAwaitTerminated(context.Background(), s)) })
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// pushAndSpoil pushes a request, and writes all over its memory when Push has
// returned, as the next request does.
func (w *replicas) pushAndSpoil(t *testing.T, r *wire.Request, body []byte) (wire.Pushed, error) {
	t.Helper()
	pushed, err := w.Push(t.Context(), "t", r)
	_, _ = rand.Read(body)
	_, _ = rand.Read(r.Compressed)
	clear(r.Series[:cap(r.Series)])
	clear(r.Samples[:cap(r.Samples)])
	r.Reset()
	return pushed, err
}

// stored is what an ingester would read of what a replica was sent, as text:
// every series with its first sample.
func stored(t *testing.T, req wire.PushRequest) (out []string) {
	t.Helper()
	var r wire.Request
	require.NoError(t, r.Walk(req.Body, req.Version, req.Tenant, func(s *wire.Series, _ []wire.Label) bool {
		if req.Without != "" {
			r.LeaveOut(s, req.Without)
		}
		return true
	}))
	return asText(&r)
}

func asText(r *wire.Request) (out []string) {
	for i, s := range r.Series {
		text := wire.SeriesString(r.Labels(i, nil))
		for _, x := range r.Samples[s.Samples.Lo:s.Samples.Hi] {
			text += fmt.Sprintf(" %d:%g", x.T, x.V)
		}
		out = append(out, text)
	}
	return out
}

// localIngester is the ingester in the same process.
type localIngester struct {
	mu     sync.Mutex
	got    []*wire.Request
	texts  []string
	answer wire.Pushed
	err    error
	before func() // runs while Push does
}

func (l *localIngester) Needs(tenant.ID, wire.Version) wire.Names { return wire.Keys }

func (l *localIngester) Push(_ context.Context, _ tenant.ID, r *wire.Request) (wire.Pushed, error) {
	if l.before != nil {
		l.before()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got, l.texts = append(l.got, r), append(l.texts, asText(r)...)
	return l.answer, l.err
}
