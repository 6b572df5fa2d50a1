package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cluster is processes that find each other by gossip on the loopback
// interface, and share a folder as their bucket.
type cluster struct {
	t    testing.TB
	dir  string   // of buckets
	name string   // no other cluster on this machine has its label
	net  *network // between the members; nil: nothing in between

	set        []string // for every process
	smallDisks bool     // see disk_linux_test.go

	mu    sync.Mutex
	nodes []*node
}

// node is a process of a cluster. Its addresses stay the same over restarts.
type node struct {
	*hearth
	web   endpoint // for others than the test itself, which changes hearth's
	name  string
	role  string
	zone  string
	label string // of nodes that should find each other

	http, grpc, gossip int // ports
	host               string

	since time.Time // of its last start, or of when a cut was healed
	pid   atomic.Int64
	state atomic.Int32 // what has been done to it
}

// The states of a node: what a client can expect of it.
const (
	left    int32 = iota // for good: nobody asks it any more
	away                 // not started, killed, stopped or paused: no answer
	cutOff               // others cannot be reached from it: any answer
	present              // the right answer
)

// The parts that processes of a cluster run, and what a story calls those.
var targets = map[string]string{
	"node": "all", "ingester": "ingester", "distributor": "distributor", "querier": "querier",
	"gateway": "storegateway", "compactor": "compactor", "ruler": "ruler", "writer": "write", "reader": "read", "backend": "backend",
}

func (n *node) ingests() bool {
	return slices.Contains([]string{"node", "ingester", "writer"}, n.role)
}

func (n *node) distributes() bool {
	return slices.Contains([]string{"node", "distributor", "writer"}, n.role)
}

func (n *node) queries() bool {
	return slices.Contains([]string{"node", "querier", "reader"}, n.role)
}

// rules says that it has a ruler.
func (n *node) rules() bool {
	return slices.Contains([]string{"node", "ruler", "backend"}, n.role)
}

// keepsBlocks says that it has a store gateway.
func (n *node) keepsBlocks() bool {
	return slices.Contains([]string{"node", "gateway", "backend"}, n.role)
}

// compacts says that it is a compactor, and nothing else.
func (n *node) compacts() bool { return n.role == "compactor" }

// alerts says that it has a ruler and an alertmanager.
func (n *node) alerts() bool {
	return slices.Contains([]string{"node", "backend"}, n.role)
}

var clusters atomic.Int32

func newCluster(t testing.TB) *cluster {
	return &cluster{t: t, dir: t.TempDir(), name: fmt.Sprintf("e2e-%d-%d", os.Getpid(), clusters.Add(1))}
}

// add starts so many processes of one kind, in zones by turns, and waits until
// they are ready. Ports that another program has taken in the meantime are
// chosen again.
func (c *cluster) add(role string, count int, zones []string, label string) {
	c.t.Helper()
	group := make([]*node, count)
	for i := range group {
		n := &node{hearth: newHearth(c.t), web: newEndpoint(c.t, "/prometheus"), role: role, label: label}
		n.name = c.nextName(role, label)
		n.dir = filepath.Join(filepath.Dir(n.dir), n.name)
		if c.smallDisks && n.ingests() {
			smallDisk(c.t, n.dir)
		}
		if len(zones) > 0 {
			n.zone = zones[i%len(zones)]
		}
		group[i] = n
		c.mu.Lock()
		c.nodes = append(c.nodes, n)
		c.mu.Unlock()
	}
	for try := 1; ; try++ {
		c.configure(group)
		for _, n := range group {
			n.launch()
		}
		taken := slices.ContainsFunc(group, (*node).portTaken)
		if !taken {
			break
		}
		for _, n := range group {
			n.kill()
		}
		if try == 5 {
			c.t.Fatal("no free ports")
		}
	}
	for _, n := range group {
		n.awaitReady()
		n.state.Store(present)
	}
}

func (c *cluster) nextName(role, label string) string {
	prefix := role
	if label != "" {
		prefix = label + "-" + role
	}
	count := 1
	for _, n := range c.nodes {
		if n.role == role && n.label == label {
			count++
		}
	}
	return fmt.Sprintf("%s-%d", prefix, count)
}

// configure gives processes their ports. Each knows where to find those before
// it and those that start with it, whatever their label.
func (c *cluster) configure(group []*node) {
	for _, n := range group {
		n.http, n.grpc, n.gossip = freePort(c.t), freePort(c.t), freePort(c.t)
		n.host = "127.0.0.1"
		if c.net != nil {
			c.net.put(n, slices.Index(c.nodes, n)+1)
		}
	}
	var join []string
	for _, n := range c.nodes {
		join = append(join, fmt.Sprintf("%s:%d", n.host, n.gossip))
	}
	for _, n := range group {
		n.url = fmt.Sprintf("http://127.0.0.1:%d", n.http)
		n.web.url = n.url
		n.set = []string{
			"target=" + targets[n.role],
			fmt.Sprintf("server.http_listen_address=127.0.0.1:%d", n.http),
			fmt.Sprintf("server.grpc_listen_address=127.0.0.1:%d", n.grpc),
			"instance.id=" + n.name,
			"instance.zone=" + n.zone,
			fmt.Sprintf("instance.advertise_address=%s:%d", n.host, n.grpc),
			"memberlist.bind_address=127.0.0.1",
			fmt.Sprintf("memberlist.bind_port=%d", n.gossip),
			"memberlist.join=" + strings.Join(join, ","),
			"memberlist.cluster_label=" + c.name + n.label,
			"bucket.filesystem.dir=" + filepath.Join(c.dir, "bucket"+n.label),
			"querier.refresh_interval=2s",
			"limits.tenants.own={own_head: true}",
		}
		n.set = append(n.set, c.set...)
	}
}

// portTaken waits until a process that was launched listens, and says whether
// it has ended because it could not.
func (n *node) portTaken() bool {
	n.t.Helper()
	taken := false
	until(n.t, patience, n.name+" to listen", func() error {
		select {
		case <-n.exited:
			taken = strings.Contains(n.log(), "address already in use")
			if !taken {
				n.t.Fatalf("%s has ended by itself: %s\n%s", n.name, n.cmd.ProcessState, n.log())
			}
			return nil
		default:
		}
		return n.findURL()
	})
	return taken
}

var ports struct {
	mu   sync.Mutex
	next int
	used map[int]bool
}

// freePort is a port that nobody listens on at any address, below those that
// systems take for outgoing connections.
func freePort(t testing.TB) int {
	const lowest, count = 16_000, 16_000
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.used == nil {
		ports.used, ports.next = map[int]bool{}, os.Getpid()*37
	}
	for range count {
		ports.next++
		port := lowest + ports.next%count
		if ports.used[port] {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			l.Close()
			ports.used[port] = true
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// named finds processes by name, all of a zone ("zone c"), or all ("all").
func (c *cluster) named(what string) []*node {
	c.t.Helper()
	zone, isZone := strings.CutPrefix(what, "zone ")
	var found []*node
	for _, n := range c.nodes {
		if what == "all" || n.name == what || isZone && n.zone == zone {
			found = append(found, n)
		}
	}
	if len(found) == 0 {
		c.t.Fatalf("there is no %s, but %v", what, c.names())
	}
	return found
}

func (c *cluster) names() (out []string) {
	for _, n := range c.nodes {
		out = append(out, n.name)
	}
	return out
}

// all is safe while processes are added.
func (c *cluster) all() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes
}

// those are the processes that give the right answer, of one kind.
func (c *cluster) those(label string, kind func(*node) bool) (out []*node) {
	for _, n := range c.nodes {
		if n.label == label && kind(n) && n.state.Load() == present {
			out = append(out, n)
		}
	}
	return out
}

func (n *node) launch() {
	n.t.Helper()
	n.since = time.Now()
	n.hearth.launch()
	n.pid.Store(int64(n.cmd.Process.Pid))
}

func (n *node) crash() {
	n.state.Store(away)
	n.kill()
}

func (n *node) stopCleanly() {
	n.t.Helper()
	n.state.Store(away)
	n.stop()
}

// startAgain starts a process on what it has on its disk.
func (n *node) startAgain() {
	n.t.Helper()
	n.launch()
	n.await()
}

// wipe takes away the disk of a process that does not run.
func (n *node) wipe() {
	n.t.Helper()
	n.mustBeAway()
	if err := os.RemoveAll(n.dir); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) mustBeAway() {
	n.t.Helper()
	if n.state.Load() != away {
		n.t.Fatalf("%s must be killed or stopped before its disk can be touched", n.name)
	}
}

// damage changes what lies in the middle of each log of a process that does not
// run.
func (n *node) damage() {
	n.t.Helper()
	n.mustBeAway()
	count := 0
	err := filepath.WalkDir(filepath.Join(n.dir, "ingester"), func(path string, d os.DirEntry, err error) error {
		if err != nil || filepath.Base(filepath.Dir(path)) != "wal" || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < 1<<12 {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		count++
		_, err = f.WriteAt([]byte(strings.Repeat("not what it was ", 4)), info.Size()/2)
		return errors.Join(err, f.Close())
	})
	if err != nil || count == 0 {
		n.t.Fatalf("%d logs of %s were damaged: %v", count, n.name, err)
	}
}

// await is the end of a start.
func (n *node) await() {
	n.t.Helper()
	n.awaitReady()
	n.state.Store(present)
}

// leave takes a process out of the cluster as an operator does.
func (n *node) leave() {
	n.t.Helper()
	status, body, err := n.web.in(patience).do(http.MethodPost, "/ingester/shutdown", "", nil, nil)
	if err != nil || status != http.StatusNoContent {
		n.t.Fatalf("shutdown of %s: %d %s %v", n.name, status, body, err)
	}
	n.stopCleanly()
	n.state.Store(left)
}

// pause stops a process where it is; its connections stay open.
func (n *node) pause() {
	n.t.Helper()
	n.state.Store(away)
	n.signal(syscall.SIGSTOP)
}

func (n *node) resume() {
	n.t.Helper()
	n.signal(syscall.SIGCONT)
	n.state.Store(present)
}

func (n *node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("send %s to %s: %v", s, n.name, err)
	}
}

// member is what one process knows of another one.
type member struct {
	ID        string    `json:"id"`
	State     string    `json:"state"`
	Heartbeat time.Time `json:"timestamp"`
}

func (n *node) ring(path string) ([]member, error) {
	status, body, err := n.do(http.MethodGet, path, "", http.Header{"Accept": {"application/json"}}, nil)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("%d %s %w", status, body, err)
	}
	var page struct {
		Shards []member `json:"shards"`
	}
	return page.Shards, json.Unmarshal([]byte(body), &page)
}

// awaitRing waits until every process that can be asked knows as many healthy
// ingesters as there should be: exactly those with its label that are present.
// Those that ask store gateways know these, too, and compactors each other.
func (c *cluster) awaitRing(count int) {
	c.t.Helper()
	until(c.t, patience, fmt.Sprintf("a ring of %d", count), func() error {
		var errs []error
		for _, n := range c.nodes {
			if n.state.Load() == present {
				errs = append(errs, c.checkRing(n, "/ring", (*node).ingests))
			}
			if n.state.Load() == present && n.queries() {
				errs = append(errs, c.checkRing(n, "/store-gateway/ring", (*node).keepsBlocks))
			}
			if n.state.Load() == present && n.compacts() {
				errs = append(errs, c.checkRing(n, "/compactor/ring", (*node).compacts))
			}
			if there := len(c.those(n.label, (*node).ingests)); there != count {
				errs = append(errs, fmt.Errorf("%d ingesters are present", there))
			}
		}
		return errors.Join(errs...)
	})
}

func (c *cluster) checkRing(n *node, path string, kind func(*node) bool) error {
	want := map[string]time.Time{}
	for _, other := range c.those(n.label, kind) {
		want[other.name] = other.since.Truncate(time.Second) // as heartbeats are
	}
	members, err := n.ring(path)
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	healthy := map[string]time.Time{}
	for _, m := range members {
		if m.State == "ACTIVE" && !m.Heartbeat.Before(want[m.ID]) {
			healthy[m.ID] = m.Heartbeat
		}
	}
	if !slices.Equal(slices.Sorted(maps.Keys(healthy)), slices.Sorted(maps.Keys(want))) {
		return fmt.Errorf("%s at %s knows %v, there are %v", n.name, path, slices.Sorted(maps.Keys(healthy)), slices.Sorted(maps.Keys(want)))
	}
	return nil
}

// flushAll has all ingesters ship what they have.
func (c *cluster) flushAll() {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.ingests() && n.state.Load() == present {
			n.flush()
		}
	}
}

// forgetRecent is the same as for one process: what a cluster answers from
// then on comes from the bucket.
func (c *cluster) forgetRecent() {
	c.t.Helper()
	var stopping []*node
	for _, n := range c.nodes {
		if n.state.CompareAndSwap(present, away) {
			n.askToStop()
			stopping = append(stopping, n)
		}
	}
	for _, n := range stopping {
		n.awaitStop()
	}
	for _, n := range c.nodes {
		for _, folder := range []string{"ingester", "storegateway"} {
			if err := os.RemoveAll(filepath.Join(n.dir, folder)); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	for _, n := range stopping {
		n.launch()
	}
	for _, n := range stopping {
		n.await()
	}
}
