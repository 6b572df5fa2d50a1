package transport

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret is long enough and no secret.
const secret = "correct horse battery staple"

// node is a Transport with what a test looks at.
type node struct {
	*Transport
	reg *prometheus.Registry
	log *logBuffer
}

func newNode(t testing.TB, cfg Config, http HTTPTLS) *node {
	t.Helper()
	n := &node{reg: prometheus.NewRegistry(), log: &logBuffer{}}
	require.NoError(t, cfg.Validate())
	require.NoError(t, http.Validate())
	var err error
	n.Transport, err = New(cfg, http, slog.New(slog.NewTextHandler(n.log, nil)), n.reg)
	require.NoError(t, err)
	for _, f := range []*files{n.http, n.members} {
		if f != nil {
			f.every = 10 * time.Millisecond
		}
	}
	return n
}

// memberConfig is mutual TLS with the files of a folder.
func memberConfig(f transporttest.Files) Config {
	cfg := DefaultConfig()
	cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.TLS.CAFile = f.Cert, f.Key, f.CA
	return cfg
}

func withSecret(cfg Config, s Secret) Config {
	cfg.Secret = s
	return cfg
}

// value is the sum of a metric's series that have a label value.
func (n *node) value(t testing.TB, name, label string) float64 {
	t.Helper()
	families, err := n.reg.Gather()
	require.NoError(t, err)
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && bytes.Contains([]byte(fmt.Sprint(m.GetLabel())), []byte(`"`+label+`"`)) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// until waits for what a look at the disk, a new connection or gossip brings.
func until(t testing.TB, cond func() bool, what string, args ...any) {
	t.Helper()
	require.Eventually(t, cond, 20*time.Second, 20*time.Millisecond, append([]any{what}, args...)...)
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
