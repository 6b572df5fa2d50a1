package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/gorilla/mux"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is some members with one bucket, and a network between them that can
// be cut.
type world struct {
	t      testing.TB
	bucket bucket.Bucket
	limits tenant.Limits
	cfg    Config

	mu      sync.Mutex
	members []*member
	cut     map[[2]string]bool
}

// member is one alertmanager of the world.
type member struct {
	*Alertmanager
	id     string
	world  *world
	router *mux.Router
	up     bool // others know of it
	dead   bool // it does not answer, and calls nobody
}

// newWorld has n members; one alone has no ring.
func newWorld(t testing.TB, n int) *world {
	t.Helper()
	return newWorldOf(t, n, func(*world) {})
}

func newWorldOf(t testing.TB, n int, set func(*world)) *world {
	t.Helper()
	w := &world{t: t, bucket: newBucket(t), limits: tenant.DefaultLimits(), cfg: DefaultConfig(), cut: map[[2]string]bool{}}
	w.cfg.PeerTimeout = model.Duration(2 * time.Second)
	set(w)
	for i := range n {
		w.join(string(rune('a'+i)), n == 1)
	}
	return w
}

func newBucket(t testing.TB) bucket.Bucket {
	t.Helper()
	b, err := bucket.New(bucket.DefaultConfig(), t.TempDir(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	return b
}

// join starts a member.
func (w *world) join(id string, alone bool) *member {
	w.t.Helper()
	m := &member{id: id, world: w, router: mux.NewRouter()}
	place := Alone()
	if !alone {
		place = Among(seenBy{m}, id, m.dial)
	}
	var err error
	m.Alertmanager, err = New(w.cfg, w.bucket, place, func(tenant.ID) *tenant.Limits { return &w.limits }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(w.t, err)
	m.RegisterRoutes(m.router, m.router)
	m.RegisterOpenRoutes(m.router)
	m.RegisterOperatorRoutes(m.router)
	require.NoError(w.t, services.StartAndAwaitRunning(context.Background(), m))
	w.mu.Lock()
	m.up = true
	w.members = append(w.members, m)
	w.mu.Unlock()
	w.t.Cleanup(func() { require.NoError(w.t, services.StopAndAwaitTerminated(context.Background(), m)) })
	return m
}

// leave stops a member as an operator does.
func (w *world) leave(m *member) {
	w.t.Helper()
	w.mu.Lock()
	m.up = false
	w.mu.Unlock()
	require.NoError(w.t, services.StopAndAwaitTerminated(context.Background(), m))
	w.mu.Lock()
	m.dead = true
	w.mu.Unlock()
}

// kill takes a member away without a word: the others still count on it, and
// nobody hears of it. What it sends by e-mail is the test's to look at.
func (w *world) kill(m *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m.dead = true
}

// seenBy are the members as one of them sees them.
type seenBy struct{ *member }

func (s seenBy) ReplicationFactor() int { return 3 }

func (s seenBy) Members() (all []ring.Member) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	for _, m := range s.world.members {
		if m.up {
			all = append(all, ring.Member{ID: m.id})
		}
	}
	return all
}

var errCut = errors.New("no route")

// dial reaches another member, unless the way is cut.
func (m *member) dial(to ring.Member) (wire.AlertmanagerServer, error) {
	m.world.mu.Lock()
	defer m.world.mu.Unlock()
	for _, other := range m.world.members {
		if other.id == to.ID && !other.dead && !m.dead && !m.world.cut[[2]string{m.id, to.ID}] {
			return other.Server(), nil
		}
	}
	return nil, errCut
}

// part cuts the network around a member, or heals it.
func (w *world) part(m *member, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range w.members {
		w.cut[[2]string{m.id, other.id}] = cut && other != m
		w.cut[[2]string{other.id, m.id}] = cut && other != m
	}
}

const team tenant.ID = "team"

// listed waits until a member knows who is configured.
func (m *member) listed() {
	m.world.t.Helper()
	require.Eventually(m.world.t, func() bool { return !m.lastListed().IsZero() }, time.Minute, time.Millisecond)
}

// do asks a member as the tenant.
func (m *member) do(method, path, body string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	m.router.ServeHTTP(w, r.WithContext(tenant.WithID(r.Context(), team)))
	return w.Code, w.Body.String()
}

// configure sends a configuration that has to be taken.
func (m *member) configure(config string) {
	m.world.t.Helper()
	code, body := m.do(http.MethodPost, "/api/v1/alerts", document(config))
	require.Equal(m.world.t, 201, code, body)
}

func document(config string) string {
	return "alertmanager_config: |\n  " + strings.ReplaceAll(strings.TrimSpace(config), "\n", "\n  ") + "\n"
}

// fire sends an alert that fires, as the ruler does.
func (m *member) fire(name string, more ...string) {
	m.world.t.Helper()
	require.NoError(m.world.t, m.place.Send(context.Background(), team, newAlert(name, time.Now().Add(time.Hour), more...)))
}

// resolve sends the end of an alert.
func (m *member) resolve(name string, more ...string) {
	m.world.t.Helper()
	require.NoError(m.world.t, m.place.Send(context.Background(), team, newAlert(name, time.Now().Add(-time.Second), more...)))
}

var began = time.Now().Add(-time.Hour)

func newAlert(name string, ends time.Time, more ...string) *notifier.Alert {
	return &notifier.Alert{
		Labels:      labels.FromStrings(append([]string{"alertname", name}, more...)...),
		Annotations: labels.FromStrings("summary", name+" is wrong"),
		StartsAt:    began, EndsAt: ends,
	}
}

// mailbox is an SMTP server that keeps what it gets.
type mailbox struct {
	t    testing.TB
	addr string
	in   chan string // subjects
}

func newMailbox(t testing.TB) *mailbox {
	t.Helper()
	b := &mailbox{t: t, in: make(chan string, 1000)}
	s := smtp.NewServer(b)
	s.Domain = "localhost"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		_ = l.Close() // it may not have begun to serve
		require.NoError(t, <-done)
	})
	return b
}

// NewSession implements smtp.Backend.
func (b *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return b, nil }

// Mail, Rcpt, Reset and Logout implement smtp.Session.
func (b *mailbox) Mail(string, *smtp.MailOptions) error { return nil }
func (b *mailbox) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (b *mailbox) Reset()                               {}
func (b *mailbox) Logout() error                        { return nil }

// Data implements smtp.Session.
func (b *mailbox) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, "Subject: "); ok {
			b.in <- strings.TrimSpace(s)
		}
	}
	return nil
}

// next is the next mail's subject.
func (b *mailbox) next() string {
	b.t.Helper()
	select {
	case s := <-b.in:
		return s
	case <-time.After(30 * time.Second):
		require.FailNow(b.t, "no mail came")
		return ""
	}
}

// config is one that sends to the mailbox.
func (b *mailbox) config() string {
	host, port, _ := net.SplitHostPort(b.addr)
	return fmt.Sprintf(`
global:
  smtp_smarthost: %s:%s
  smtp_from: hearth@example.org
  smtp_require_tls: false
route:
  receiver: mail
  group_by: [alertname]
  group_wait: 0s
  group_interval: 8s
  repeat_interval: 1h
receivers:
- name: mail
  email_configs:
  - to: team@example.org
    send_resolved: true
    headers: {Subject: '{{ .Status }} {{ .CommonLabels.alertname }}'}
`, host, port)
}

// settle lets every replica have its turn to send, and then some: it fires an
// alert of its own, whose mail comes after those that would be too many. All
// replicas look at a group again after each group_interval, so what is wrong
// would show.
func (w *world) settle(b *mailbox, by *member) {
	w.t.Helper()
	name := w.ping(b, by)
	by.resolve(name)
	require.Equal(w.t, "resolved "+name, b.next())
}

// ping has the replicas send something new, and nothing else.
func (w *world) ping(b *mailbox, by *member) (name string) {
	w.t.Helper()
	name = fmt.Sprintf("Ping%d", time.Now().UnixNano())
	by.fire(name)
	require.Equal(w.t, "firing "+name, b.next())
	return name
}

// newHook is a webhook that keeps the bodies that it gets.
func newHook(t testing.TB) (url string, got chan string) {
	t.Helper()
	got = make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			got <- string(body)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}
