package distributor

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// inflight bounds the memory of the requests in progress.
type inflight struct {
	max  int64
	used atomic.Int64
}

// take reserves n bytes; give them back with put.
func (f *inflight) take(n int64) error {
	if f.used.Add(n) > f.max {
		f.used.Add(-n)
		return &wire.UserError{Kind: wire.Unavailable, ID: "err-distributor-busy", Msg: "too many bytes of write requests are in progress, send the request again", RetryAfter: time.Second}
	}
	return nil
}

func (f *inflight) put(n int64) { f.used.Add(-n) }

// rates holds a token bucket of samples for each tenant that wrote lately.
type rates struct {
	mu       sync.Mutex
	byTenant map[tenant.ID]*tenantRate
	swept    int // tenants left after the last sweep
}

type tenantRate struct {
	limiter *rate.Limiter
	used    time.Time
}

// rateIdle is after how long without writes a tenant's bucket is dropped. It
// is full by then, as it would be if made anew.
const rateIdle = 10 * time.Minute

func (r *rates) of(id tenant.ID, perSecond float64, burst int, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.byTenant[id]
	if t == nil {
		r.sweep(now)
		t = &tenantRate{limiter: rate.NewLimiter(rate.Limit(perSecond), burst)}
		r.byTenant[id] = t
	}
	if t.limiter.Limit() != rate.Limit(perSecond) || t.limiter.Burst() != burst {
		t.limiter.SetLimitAt(now, rate.Limit(perSecond))
		t.limiter.SetBurstAt(now, burst)
	}
	t.used = now
	return t.limiter
}

// sweep drops idle buckets whenever their number has doubled, so its cost is
// spread over the tenants that come.
func (r *rates) sweep(now time.Time) {
	if r.byTenant == nil {
		r.byTenant = map[tenant.ID]*tenantRate{}
	}
	if len(r.byTenant) < 2*r.swept+1000 {
		return
	}
	for id, t := range r.byTenant {
		if now.Sub(t.used) > rateIdle {
			delete(r.byTenant, id)
		}
	}
	r.swept = len(r.byTenant)
}

// checkRate takes n samples out of the tenant's bucket. A request that does
// not fit is refused whole: the sender sends it again later, unchanged.
func (d *Distributor) checkRate(id tenant.ID, l *tenant.Limits, n int) *wire.UserError {
	if l.IngestionRate <= 0 || n == 0 {
		return nil
	}
	if n > l.IngestionBurst {
		return wire.Errorf(wire.TooLarge, "err-ingestion-burst", "the request has %d samples, the limit is %d (limit ingestion_burst_size); send smaller requests", n, l.IngestionBurst)
	}
	now := d.now()
	// Requests are spread evenly over the distributors, so each has its share.
	perSecond := l.IngestionRate / float64(d.distributors())
	lim := d.rates.of(id, perSecond, l.IngestionBurst, now)
	if lim.AllowN(now, n) {
		return nil
	}
	missing := float64(n) - lim.TokensAt(now)
	wait := time.Duration(math.Ceil(missing/perSecond)) * time.Second
	return &wire.UserError{
		Kind: wire.Limited, ID: "err-ingestion-rate",
		Msg:        wire.Errorf(wire.Limited, "", "ingestion rate limit of %g samples/s reached (limit ingestion_rate) by a request of %d samples; send less, or ask for a higher limit", l.IngestionRate, n).Msg,
		RetryAfter: max(time.Second, wait),
	}
}
