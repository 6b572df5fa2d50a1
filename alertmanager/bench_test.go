package alertmanager

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// BenchmarkTenants opens tenants with a configuration of a few routes and
// receivers, and tells what memory each takes, and how many goroutines.
func BenchmarkTenants(b *testing.B) {
	const tenants = 2000
	for b.Loop() {
		w := newWorld(b, 1)
		a := w.members[0].Alertmanager
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		for i := range tenants {
			id := tenant.ID(fmt.Sprintf("tenant-%d", i))
			err := a.store.put(context.Background(), id, UserConfig{Config: plain + "  email_configs: [{to: a@b, from: c@d, smarthost: 'h:25'}]\n  webhook_configs: [{url: 'http://x'}]"})
			require.NoError(b, err)
			require.NoError(b, a.change(context.Background(), id))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tenants/1024, "KiB-heap/tenant")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/tenants/1024, "KiB-stack/tenant")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/tenants, "goroutines/tenant")
	}
}

// FuzzConfig: whatever is sent as a configuration is refused or can run.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(document(plain)))
	f.Add([]byte("template_files: {a: '{{ define \"x\" }}{{ end }}'}\nalertmanager_config: |\n  " + plain))
	a := newWorld(f, 1).members[0].Alertmanager
	f.Fuzz(func(t *testing.T, body []byte) {
		if c, err := readConfig(bytes.Clone(body)); err == nil {
			_, _ = a.load(team, c)
		}
	})
}
