package tenant

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/grafana/dskit/dns"
	"github.com/grafana/dskit/flagext"
	"github.com/grafana/dskit/kv/codec"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

type silent struct{}

func (silent) Log(...any) error { return nil }

// gossip is the gossip of one process, on a port of its own.
func gossip(t testing.TB, join ...string) *memberlist.KV {
	t.Helper()
	cfg := memberlist.KVConfig{}
	cfg.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError)) // its defaults
	cfg.NodeName, cfg.RandomizeNodeName = "node", true
	cfg.TCPTransport.BindAddrs, cfg.TCPTransport.BindPort = flagext.StringSlice{"127.0.0.1"}, 0
	cfg.JoinMembers = join
	cfg.LeaveTimeout = 100 * time.Millisecond
	cfg.Codecs = []codec.Codec{NewsCodec{}}
	reg := prometheus.NewRegistry()
	kv := memberlist.NewKV(cfg, silent{}, dns.NewProvider(dns.GolangResolverType, 0, silent{}, reg), reg)
	require.NoError(t, services.StartAndAwaitRunning(context.Background(), kv))
	t.Cleanup(func() { require.NoError(t, services.StopAndAwaitTerminated(context.Background(), kv)) })
	return kv
}

// cluster starts processes that gossip.
func (w *world) cluster(n int) []*Registry {
	w.t.Helper()
	var rs []*Registry
	var join []string
	for range n {
		kv := gossip(w.t, join...)
		join = append(join, fmt.Sprintf("127.0.0.1:%d", kv.GetListeningPort()))
		news, err := memberlist.NewClient(kv, NewsCodec{})
		require.NoError(w.t, err)
		r := w.unstarted()
		r.Share(news)
		require.NoError(w.t, services.StartAndAwaitRunning(context.Background(), r))
		rs = append(rs, r)
	}
	return rs
}

// eventually is how long others take to hear of something; it polls and does
// not judge the time.
func eventually(t testing.TB, what string, f func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	require.Eventually(t, f, time.Minute, time.Millisecond, what)
	return time.Since(began)
}

// A change is in force everywhere within seconds, without a poll.
func TestOthersHearOfChanges(t *testing.T) {
	w := newWorld(t)
	rs := w.cluster(3)
	_, token, secret, err := rs[0].CreateTenant(t.Context(), Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err)
	everywhere := func(what string, f func(*Registry) bool) {
		for i, r := range rs {
			took := eventually(t, what, func() bool { return f(r) })
			t.Logf("%s on process %d after %s", what, i, took)
		}
	}
	everywhere("create", func(r *Registry) bool { _, err := r.identify(secret); return err == nil })
	_, err = rs[1].UpdateTenant(t.Context(), "acme", Any, func(x *Tenant) error { x.Status = Suspended; return nil })
	require.NoError(t, err)
	everywhere("suspend", func(r *Registry) bool { x, _ := r.Tenant("acme"); return x.Status == Suspended })
	require.NoError(t, rs[2].RevokeToken(t.Context(), Owner{All: true}, token.ID))
	everywhere("revoke", func(r *Registry) bool { _, err := r.identify(secret); return err != nil })
}

func TestNewsMergeIsTheNewestOfEach(t *testing.T) {
	a, b := versions{"1": 3, "2": 1}, versions{"1": 2, "2": 5, "64": 1}
	ab, ba := a.Clone().(versions), b.Clone().(versions)
	change, err := ab.Merge(b, false)
	require.NoError(t, err)
	require.Equal(t, versions{"2": 5, "64": 1}, change)
	_, err = ba.Merge(a, false)
	require.NoError(t, err)
	require.Equal(t, ab, ba)
	change, err = ab.Merge(b, false)
	require.NoError(t, err)
	require.Nil(t, change, "nothing new is not passed on")
	raw, err := NewsCodec{}.Encode(ab)
	require.NoError(t, err)
	back, err := NewsCodec{}.Decode(raw)
	require.NoError(t, err)
	require.Equal(t, ab, back)
}

// fill puts so many tenants, with two tokens each, into the bucket at once. It
// returns the secret of one token of each.
func (w *world) fill(tenants int) map[ID]string {
	r := w.process()
	byShard := map[int][]ID{}
	for i := range tenants {
		id := ID(fmt.Sprintf("tenant-%06d", i))
		byShard[shardOf(id)] = append(byShard[shardOf(id)], id)
	}
	secrets := map[ID]string{}
	for n, ids := range byShard {
		require.NoError(w.t, r.change(context.Background(), n, func(d *draft) error {
			for _, id := range ids {
				d.tenants[id] = &tenantEntry{Tenant: Tenant{ID: id, DisplayName: "A tenant among many", Labels: map[string]string{"env": "prod"}, Status: Active, CreatedAt: d.at, UpdatedAt: d.at, Version: d.version}}
				for range 2 {
					e := &tokenEntry{Token: Token{ID: mintID(n), Tenant: id, Name: "of " + string(id), Scopes: DataScopes, CreatedAt: d.at, Version: d.version}}
					secrets[id], e.hash = mintSecret(e.ID)
					d.tokens[e.ID] = e
				}
			}
			return nil
		}))
	}
	return secrets
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What 100,000 tenants with 200,000 tokens cost: run with
// go test ./tenant -run none -bench Large.
func BenchmarkLargeRegistry(b *testing.B) {
	w := newWorld(b)
	const tenants = 100_000
	secrets := w.fill(tenants)
	list := make([]string, 0, 1000)
	for _, s := range secrets {
		if list = append(list, s); len(list) == cap(list) {
			break
		}
	}
	clear(secrets)

	before := heapBytes()
	r := w.process()
	require.NoError(b, r.readAll(b.Context())) // a slow machine has not waited for it
	perTenant := float64(heapBytes()-before) / tenants
	b.Run("lookup", func(b *testing.B) {
		b.ReportMetric(perTenant, "B/tenant")
		b.ReportAllocs()
		for i := range b.N {
			e, err := r.identify(list[i%len(list)])
			if err != nil {
				b.Fatal(err)
			}
			r.Limits(e.Token.Tenant)
		}
	})
	b.Run("start", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			began := time.Now()
			fresh := w.unstarted()
			if err := fresh.readAll(context.Background()); err != nil {
				b.Fatal(err)
			}
			took += time.Since(began)
		}
		b.ReportMetric(took.Seconds()/float64(b.N), "s/start")
	})
	b.Run("change", func(b *testing.B) {
		for i := range b.N {
			if _, _, _, err := r.CreateTenant(context.Background(), Tenant{ID: ID(fmt.Sprintf("more-%d-%d", b.N, i))}, DataScopes); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("propagation", func(b *testing.B) {
		rs := w.cluster(2)
		var took time.Duration
		for i := range b.N {
			_, _, secret, err := rs[0].CreateTenant(context.Background(), Tenant{ID: ID(fmt.Sprintf("news-%d-%d", b.N, i))}, DataScopes)
			if err != nil {
				b.Fatal(err)
			}
			took += eventually(b, "create", func() bool { _, err := rs[1].identify(secret); return err == nil })
		}
		b.ReportMetric(took.Seconds()*1000/float64(b.N), "ms/heard")
	})
}
