package ruler

import (
	"bytes"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A rule that always fails is the tenant's to mend, and does not fill the log.
func TestFailuresOfATenantAreNotLogged(t *testing.T) {
	for level, want := range map[slog.Level]bool{slog.LevelInfo: false, slog.LevelDebug: true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			var log lockedBuffer
			w.logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level}))
			r := w.start()
			post(t, r, "t", "ns", everything)
			for _, job := range []string{"one", "two"} {
				w.write("t", `up{job="`+job+`"}`, 1)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			_, body := ask(t, r, "t", "GET", "/prometheus/api/v1/rules?health=err", "")
			require.Contains(t, body, "many-to-many matching not allowed", "the tenant sees it")
			require.Equal(t, want, bytes.Contains(log.bytes(), []byte("many-to-many")))
		})
	}
}
