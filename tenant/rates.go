package tenant

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// rememberedRates is how many tenants are remembered before those are looked
// for that need not be.
const rememberedRates = 1000

// Rates has a token bucket for each tenant that may have used some of it. Safe
// for concurrent use; the zero value is ready.
type Rates struct {
	mu       sync.Mutex
	byTenant map[ID]*rate.Limiter
	kept     int // by the last sweep
}

// Of is a tenant's bucket. It fills by so many a second, up to burst; both may be
// others than last time.
func (r *Rates) Of(id ID, perSecond float64, burst int, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.byTenant[id]
	if l == nil {
		r.sweep(now)
		l = rate.NewLimiter(rate.Limit(perSecond), burst)
		r.byTenant[id] = l
	}
	if l.Limit() != rate.Limit(perSecond) || l.Burst() != burst {
		l.SetLimitAt(now, rate.Limit(perSecond))
		l.SetBurstAt(now, burst)
	}
	return l
}

// sweep drops full buckets, which are as if made anew, whenever there are twice as
// many as it has kept: its cost is spread over the tenants that come.
func (r *Rates) sweep(now time.Time) {
	if r.byTenant == nil {
		r.byTenant = map[ID]*rate.Limiter{}
	}
	if len(r.byTenant) < max(rememberedRates, 2*r.kept) {
		return
	}
	for id, l := range r.byTenant {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(r.byTenant, id)
		}
	}
	r.kept = len(r.byTenant)
}
