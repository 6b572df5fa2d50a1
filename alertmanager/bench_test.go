package alertmanager

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// BenchmarkTenants has tenants with a configuration of a few routes and
// receivers, and tells what memory each takes, and how many goroutines: asleep,
// and with an alert that has fired and been told of.
func BenchmarkTenants(b *testing.B) {
	const tenants = 2000
	text := plain + "  email_configs: [{to: a@b, from: c@d, smarthost: 'h:25'}]\n  webhook_configs: [{url: 'http://x'}]\n" +
		"- name: nobody\ninhibit_rules: [{source_matchers: [severity=critical], target_matchers: [severity=warning]}]\n"
	text = strings.Replace(text, "{receiver: r}", "{receiver: nobody, group_by: [alertname], routes: [{receiver: r, matchers: [severity=page]}]}", 1)
	for _, awake := range []bool{false, true} {
		b.Run(map[bool]string{false: "asleep", true: "firing"}[awake], func(b *testing.B) {
			for b.Loop() {
				w := newWorld(b, 1)
				a := w.members[0].Alertmanager
				data, err := json.Marshal(Version{Number: 1, UserConfig: UserConfig{Config: text}})
				require.NoError(b, err)
				for i := range tenants {
					_, err := w.bucket.Put(b.Context(), configKey(nth(i)), bytes.NewReader(data), int64(len(data)), bucket.Condition{})
					require.NoError(b, err)
				}
				before := memory()
				goroutines := runtime.NumGoroutine()
				a.list(b.Context())
				a.sync(b.Context())
				if awake {
					for i := range tenants {
						require.NoError(b, a.place.Send(b.Context(), nth(i), newAlert("Watchdog", time.Now().Add(time.Hour))))
					}
				}
				after := memory()
				here, up := a.count()
				require.Equal(b, tenants, here)
				require.Equal(b, map[bool]int{false: 0, true: tenants}[awake], up)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tenants/1024, "KiB-heap/tenant")
				b.ReportMetric((float64(after.StackInuse)-float64(before.StackInuse))/tenants/1024, "KiB-stack/tenant")
				b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/tenants, "goroutines/tenant")
			}
		})
	}
}

func nth(i int) tenant.ID { return tenant.ID(fmt.Sprintf("tenant-%d", i)) }

func memory() (m runtime.MemStats) {
	runtime.GC()
	runtime.GC() // what has a finalizer goes with the second
	runtime.ReadMemStats(&m)
	return m
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
