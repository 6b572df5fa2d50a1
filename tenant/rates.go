package tenant

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// rememberedRates is how many tenants are remembered before those are looked
// for that need not be.
const rememberedRates = 1000

// Rates holds each tenant to a rate. Safe for concurrent use.
type Rates struct {
	perSecond rate.Limit
	burst     int

	mu       sync.Mutex
	byTenant map[ID]*rate.Limiter // those that may have used some of their burst
	sweepAt  int                  // with so many
}

// NewRates makes rates of so many a second, and so many at once.
func NewRates(perSecond float64, burst int) *Rates {
	return &Rates{perSecond: rate.Limit(perSecond), burst: burst, byTenant: map[ID]*rate.Limiter{}, sweepAt: rememberedRates}
}

// Allow says whether a tenant may have n now. If not, it says when.
func (r *Rates) Allow(id ID, n int, now time.Time) (ok bool, after time.Duration) {
	t := r.of(id, now).ReserveN(now, min(n, r.burst))
	if after = t.DelayFrom(now); after > 0 {
		t.CancelAt(now)
	}
	return after == 0, after
}

func (r *Rates) of(id ID, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.byTenant[id]
	if l == nil {
		r.sweep(now)
		l = rate.NewLimiter(r.perSecond, r.burst)
		r.byTenant[id] = l
	}
	return l
}

// sweep forgets those who have all of their burst again. It looks at a tenant
// once for each other one that comes, on average.
func (r *Rates) sweep(now time.Time) {
	if len(r.byTenant) < r.sweepAt {
		return
	}
	for id, l := range r.byTenant {
		if l.TokensAt(now) >= float64(r.burst) {
			delete(r.byTenant, id)
		}
	}
	r.sweepAt = max(rememberedRates, 2*len(r.byTenant))
}
