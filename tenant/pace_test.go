package tenant

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRefusalsAreAnsweredSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pace
		h := p.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status := http.StatusTooManyRequests
			if r.URL.Path == "/fine" {
				status = http.StatusOK
			}
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(status)
		}))
		ask := func(ctx context.Context, id ID, path string) time.Duration {
			began := time.Now()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, path, nil).WithContext(WithID(ctx, id)))
			return time.Since(began)
		}
		// One that comes at the pace it is told never waits.
		for range 100 {
			require.Zero(t, ask(t.Context(), "patient", "/"))
			time.Sleep(time.Second)
		}
		// Fifty connections that repeat at once are answered at a pace.
		const connections = 50
		var wg sync.WaitGroup
		answers := make(chan time.Duration, 10_000)
		began := time.Now()
		for range connections {
			wg.Go(func() {
				for time.Since(began) < time.Minute {
					answers <- ask(t.Context(), "hasty", "/")
				}
			})
		}
		time.Sleep(30 * time.Second)
		require.Zero(t, ask(t.Context(), "hasty", "/fine"), "what is not refused does not wait")
		require.Zero(t, ask(t.Context(), "other", "/"), "nor do others")
		gone, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.LessOrEqual(t, ask(gone, "hasty", "/"), time.Millisecond, "who has gone is let go")
		wg.Wait()
		close(answers)
		n := len(answers)
		for d := range answers {
			require.LessOrEqual(t, d, refusalWait)
		}
		require.LessOrEqual(t, n, 60*(refusalsPerSecond+connections)+refusalsAtOnce+connections)
		// None of a tenant is not paced.
		require.Zero(t, func() time.Duration {
			began := time.Now()
			for range 100 {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil))
			}
			return time.Since(began)
		}())
	})
}
