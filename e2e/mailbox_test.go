package e2e

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
)

// mailbox is a mail server that keeps the subjects of what it gets.
type mailbox struct {
	t       testing.TB
	address string

	mu      sync.Mutex
	got     []string        // in the order in which they came
	read    int             // so many were expected, and came
	lenient map[string]bool // may come more often
}

func newMailbox(t testing.TB) *mailbox {
	t.Helper()
	b := &mailbox{t: t, lenient: map[string]bool{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.address = l.Addr().String()
	s := smtp.NewServer(b)
	s.Domain = "localhost"
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		l.Close() // it may not have begun to serve
		<-done
		if t.Failed() {
			t.Logf("mails that came: %q", b.got)
		}
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
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(string(text)) {
		if subject, ok := strings.CutPrefix(line, "Subject: "); ok {
			b.got = append(b.got, strings.TrimSpace(subject))
		}
	}
	return nil
}

// expect waits for mails, which must be the next ones, in any order: a mail that
// comes twice is where another one should be. One of those that may come more
// often does not count.
func (b *mailbox) expect(subjects ...string) {
	b.t.Helper()
	until(b.t, patience, fmt.Sprintf("the mails %q", subjects), func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for b.read < len(b.got) && len(subjects) > 0 {
			next := b.got[b.read]
			b.read++
			i := slices.Index(subjects, next)
			if i < 0 && !b.lenient[next] {
				b.t.Fatalf("the next mail was %q, want %q, all of them: %q", next, subjects, b.got)
			}
			if i >= 0 {
				subjects = slices.Delete(subjects, i, i+1)
			}
		}
		if len(subjects) > 0 {
			return fmt.Errorf("there were %q", b.got)
		}
		return nil
	})
}

// expectSome is expect for a mail that may come again.
func (b *mailbox) expectSome(subject string) {
	b.t.Helper()
	b.mu.Lock()
	b.lenient[subject] = true
	b.mu.Unlock()
	b.expect(subject)
}

// expectNone: what came was expected.
func (b *mailbox) expectNone() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, subject := range b.got[b.read:] {
		if !b.lenient[subject] {
			b.t.Fatalf("there is a mail too many, %q, all of them: %q", subject, b.got)
		}
	}
}

// receiver is an Alertmanager's configuration that sends here, a mail for each
// value of the label name. A group is looked at again after 30 s: until then
// each replica has had its turn, also on a machine that is busy.
func (b *mailbox) receiver() string {
	return fmt.Sprintf(`
global:
  smtp_smarthost: %s
  smtp_from: hearth@example.org
  smtp_require_tls: false
route:
  receiver: mail
  group_by: [name]
  group_wait: 0s
  group_interval: 30s
  repeat_interval: 1h
inhibit_rules:
- source_matchers: [name=root]
  target_matchers: [name=~"leaf.*"]
receivers:
- name: mail
  email_configs:
  - to: team@example.org
    send_resolved: true
    headers: {Subject: '{{ .Status }} {{ .CommonLabels.name }}'}
`, b.address)
}
