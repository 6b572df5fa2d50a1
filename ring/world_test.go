package ring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	dsring "github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/tenant"
)

func TestMain(m *testing.M) {
	// A gossip that shuts down while it is sent something never takes it.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/grafana/dskit/kv/memberlist.(*TCPTransport).handleConnection"))
}

const (
	role     = "ingester"
	patience = time.Minute // of tests, for what should happen at once
)

// process is one process of a cluster, with a gossip of its own on loopback.
type process struct {
	t       *testing.T
	dir     string
	members Members
	log     *logBuffer

	*Cluster
	ring   *Ring
	shards *Shards
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// freePort is a port that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// newProcess makes a process that joins others, or is the first.
func newProcess(t *testing.T, id, zone string, others ...*process) *process {
	t.Helper()
	m := DefaultMembers()
	m.Instance = Instance{ID: id, Zone: zone, AdvertiseAddress: "127.0.0.1:1"}
	m.Memberlist.BindAddress, m.Memberlist.BindPort = "127.0.0.1", freePort(t)
	m.Memberlist.ClusterLabel = t.Name()
	join := []string{fmt.Sprintf("127.0.0.1:%d", m.Memberlist.BindPort)}
	for _, o := range others {
		join = append(join, fmt.Sprintf("127.0.0.1:%d", o.members.Memberlist.BindPort))
	}
	m.Memberlist.Join = strings.Join(join, ",")
	return &process{t: t, dir: t.TempDir(), members: m, log: &logBuffer{}}
}

// start starts gossip and ring, as often as wanted.
func (p *process) start(fixed func(tenant.ID) int) *process {
	p.t.Helper()
	logger := slog.New(slog.NewTextHandler(p.log, nil))
	var err error
	p.Cluster, err = New(p.members, p.dir, "127.0.0.1:1", nil, logger, prometheus.NewRegistry())
	require.NoError(p.t, err)
	p.shards, err = p.Cluster.Shards(fixed)
	require.NoError(p.t, err)
	p.ring, err = p.Cluster.Ring(role, p.shards)
	require.NoError(p.t, err)
	run(p.t, p.Cluster)
	run(p.t, p.ring)
	run(p.t, p.shards)
	return p
}

// run starts a service, and stops it at the end of the test.
func run(t *testing.T, s services.Service) {
	t.Helper()
	require.NoError(t, services.StartAndAwaitRunning(context.Background(), s))
	t.Cleanup(func() { _ = services.StopAndAwaitTerminated(context.Background(), s) })
}

func stop(t *testing.T, s services.Service) {
	t.Helper()
	require.NoError(t, services.StopAndAwaitTerminated(context.Background(), s))
}

func noFixed(tenant.ID) int { return 0 }

// alone is a process that is no member itself, and whose ring has whom the test
// puts there.
func alone(t *testing.T, zone string) *process { return newProcess(t, "observer", zone).start(noFixed) }

// put has members speak up in the ring, as peers do. change may make them what
// they are not: silent, leaving, read-only. They speak up until they are heard:
// a ring begins to listen only after it says that it runs.
func (p *process) put(change func(*dsring.InstanceDesc), ids ...string) {
	p.t.Helper()
	store, err := p.Store("test-"+strconv.Itoa(int(time.Now().UnixNano())), dsring.GetCodec())
	require.NoError(p.t, err)
	for again := int64(0); ; again++ {
		err := store.CAS(context.Background(), role, func(in any) (any, bool, error) {
			desc := dsring.GetOrCreateRingDesc(in)
			for _, id := range ids {
				m := introduce(desc, id)
				if change != nil {
					change(&m)
				}
				m.Timestamp += again
				desc.Ingesters[m.Id] = m
			}
			return desc, true, nil
		})
		require.NoError(p.t, err)
		if p.hears(ids) {
			return
		}
		require.Less(p.t, again, int64(100), "the ring hears nobody")
	}
}

// introduce is what is known of a member, or how a new one looks.
func introduce(desc *dsring.Desc, id string) dsring.InstanceDesc {
	name, zone, _ := strings.Cut(id, "@")
	if old, ok := desc.Ingesters[name]; ok {
		return old
	}
	return dsring.InstanceDesc{
		Id: name, Addr: name + ":1", Zone: zone, State: dsring.ACTIVE, Timestamp: time.Now().Unix(),
		Tokens: dsring.NewRandomTokenGeneratorWithSeed(int64(len(desc.Ingesters))+1).GenerateTokens(128, desc.GetTokens()),
	}
}

// hears says that all members are in the ring, soon.
func (p *process) hears(ids []string) bool {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 40 {
		have := p.seen()
		if !slices.ContainsFunc(ids, func(id string) bool {
			name, _, _ := strings.Cut(id, "@")
			_, there := have[name]
			return !there
		}) {
			return true
		}
		<-tick.C
	}
	return false
}

// seen is what the ring's page says of a member.
type seen struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	ReadOnly bool   `json:"read_only"`
}

func (p *process) seen() map[string]seen {
	p.t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/ring", nil)
	req.Header.Set("Accept", "application/json")
	w := httptest.NewRecorder()
	p.ring.ServeHTTP(w, req)
	var page struct {
		Shards []seen `json:"shards"`
	}
	require.NoError(p.t, json.Unmarshal(w.Body.Bytes(), &page), "%s", w.Body)
	out := map[string]seen{}
	for _, s := range page.Shards {
		out[s.ID] = s
	}
	return out
}

// await waits until the ring is as it should be.
func (p *process) await(what string, good func(map[string]seen) bool) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return good(p.seen()) }, patience, 10*time.Millisecond, "%s knows %v, want %s", p.members.Instance.ID, p.seen(), what)
}

// states is who is seen in which state, "id=STATE" each.
func states(have map[string]seen) map[string]string {
	out := map[string]string{}
	for id, s := range have {
		out[id] = s.State
	}
	return out
}

func silent(m *dsring.InstanceDesc) { m.Timestamp = time.Now().Add(-time.Minute).Unix() }
