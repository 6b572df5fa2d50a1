package app

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// mails is an SMTP server that tells the subjects of what it gets.
type mails chan string

func (m mails) NewSession(*smtp.Conn) (smtp.Session, error) { return m, nil }
func (m mails) Mail(string, *smtp.MailOptions) error        { return nil }
func (m mails) Rcpt(string, *smtp.RcptOptions) error        { return nil }
func (m mails) Reset()                                      {}
func (m mails) Logout() error                               { return nil }

func (m mails) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, "Subject: "); ok {
			m <- strings.TrimSpace(s)
		}
	}
	return err
}

func (m mails) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-m:
		return s
	case <-time.After(time.Minute):
		require.FailNow(t, "no mail came")
		return ""
	}
}

func startMails(t *testing.T) (m mails, addr string) {
	t.Helper()
	m = make(mails, 100)
	s := smtp.NewServer(m)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, <-done)
	})
	return m, l.Addr().String()
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func post(t *testing.T, a *App, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.Addr()+path, strings.NewReader(body))
	require.NoError(t, err)
	return askAs(t, "team", r)
}

// alertIs posts an alert that fires or has ended.
func alertIs(t *testing.T, a *App, name string, ends time.Duration) {
	t.Helper()
	now := time.Now()
	code, body := post(t, a, "/alertmanager/api/v2/alerts", `[{"labels":{"alertname":"`+name+`"},"startsAt":"`+
		now.Add(-time.Hour).Format(time.RFC3339Nano)+`","endsAt":"`+now.Add(ends).Format(time.RFC3339Nano)+`"}]`)
	require.Equal(t, 200, code, body)
}

// Three processes with gossip and gRPC between them, and a real mail server: a
// notification comes once, whoever is asked, and also when one has stopped.
func TestOneMailFromThree(t *testing.T) {
	box, mailAddr := startMails(t)
	bucketDir, gossip := t.TempDir(), []int{freePort(t), freePort(t), freePort(t)}
	var join []string
	for _, p := range gossip {
		join = append(join, net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
	}
	apps := make([]*App, 3)
	for i := range apps {
		cfg := testConfig(t)
		cfg.Instance.ID = "member-" + strconv.Itoa(i)
		cfg.Server.GRPCListenAddress = net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
		cfg.Bucket.Filesystem.Dir = bucketDir
		cfg.Memberlist.BindAddress, cfg.Memberlist.BindPort = "127.0.0.1", gossip[i]
		cfg.Memberlist.Join = strings.Join(join, ",")
		a, err := New(cfg, discard())
		require.NoError(t, err)
		apps[i] = a
	}
	for _, a := range apps {
		require.NoError(t, a.Start(t.Context()))
	}
	stopped := map[*App]bool{}
	t.Cleanup(func() {
		for _, a := range apps {
			if !stopped[a] {
				require.NoError(t, a.Stop())
			}
		}
	})
	for _, a := range apps {
		require.Eventually(t, func() bool {
			_, page := get(t, a, "/multitenant_alertmanager/ring")
			return strings.Count(page, "ACTIVE") >= 3
		}, time.Minute, 50*time.Millisecond)
	}

	code, body := post(t, apps[0], "/api/v1/alerts", `alertmanager_config: |
  global: {smtp_smarthost: '`+mailAddr+`', smtp_from: a@example.org, smtp_require_tls: false}
  route: {receiver: mail, group_by: [alertname], group_wait: 0s, group_interval: 8s}
  receivers: [{name: mail, email_configs: [{to: b@example.org, send_resolved: true, headers: {Subject: '{{ .Status }} {{ .CommonLabels.alertname }}'}}]}]
`)
	require.Equal(t, 201, code, body)
	for i, name := range []string{"One", "Two"} {
		alertIs(t, apps[i], name, time.Hour)
		require.Equal(t, "firing "+name, box.next(t))
		alertIs(t, apps[i+1], name, -time.Second)
		require.Equal(t, "resolved "+name, box.next(t))
	}
	require.NoError(t, apps[0].Stop())
	stopped[apps[0]] = true
	for i, name := range []string{"Three", "Four"} {
		alertIs(t, apps[1+i], name, time.Hour)
		require.Equal(t, "firing "+name, box.next(t))
		alertIs(t, apps[2-i], name, -time.Second)
		require.Equal(t, "resolved "+name, box.next(t))
	}
	require.Empty(t, box)
	require.Eventually(t, func() bool {
		require.NoError(t, apps[1].meter.Flush(t.Context()))
		hours, err := apps[2].meter.Usage(t.Context(), "", time.Now().Add(-2*time.Hour), time.Now())
		require.NoError(t, err)
		sent := int64(0)
		for _, h := range hours {
			sent += h.Notifications
		}
		return sent == 8
	}, time.Minute, 50*time.Millisecond, "the tenant's usage has each mail once")
}
