package tenant

import (
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	// refusalsAtOnce and refusalsPerSecond are how many refusals of a tenant
	// are answered at once. Who sends no faster than that, or waits as he is
	// told by Retry-After, notices nothing.
	refusalsAtOnce    = 20
	refusalsPerSecond = 20

	// refusalWait is how long another one waits for its answer at most.
	refusalWait = 2 * time.Second
)

// Pace answers a tenant's refusals (429 and 503) slowly, once there are many. A
// sender that repeats what was refused without a pause then sends a little more
// than nothing on each connection, and does not keep the processors busy that
// others need. Safe for concurrent use; the zero value is ready.
type Pace struct{ refusals Rates }

// Middleware paces the answers of next. Requests come with their tenant in the
// context.
func (p *Pace) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := FromContext(r.Context())
		if err != nil { // of no tenant
			next.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(&pacedAnswer{w, p, id, r, false}, r)
	})
}

// delay is how long the next refusal of a tenant waits.
func (p *Pace) delay(id ID, now time.Time) time.Duration {
	r := p.refusals.Of(id, refusalsPerSecond, refusalsAtOnce, now).ReserveN(now, 1)
	d := r.DelayFrom(now)
	if d > refusalWait {
		// It waits with others, and not for its own turn; but not all of them
		// come back at the same moment.
		r.CancelAt(now)
		d = refusalWait/2 + rand.N(refusalWait/2)
	}
	return d
}

// pacedAnswer waits before it tells a refusal.
type pacedAnswer struct {
	http.ResponseWriter
	pace  *Pace
	id    ID
	r     *http.Request
	begun bool
}

func (w *pacedAnswer) WriteHeader(status int) {
	if refused := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable; refused && !w.begun {
		w.wait(w.pace.delay(w.id, time.Now()))
	}
	w.begun = w.begun || status >= http.StatusOK
	w.ResponseWriter.WriteHeader(status)
}

func (w *pacedAnswer) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.r.Context().Done():
	}
}

// Flush serves handlers that stream and ask for http.Flusher.
func (w *pacedAnswer) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (w *pacedAnswer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
