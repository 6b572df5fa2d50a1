package distributor

import (
	"maps"
	"math"
	"sync"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// overdrawn are the tenants that were just refused for going too fast. Until
// there is room again in what they may send, requests as large as the refused
// one are refused as well, before they are read: that costs next to nothing.
type overdrawn struct {
	mu       sync.Mutex
	byTenant map[tenant.ID]overdraft
}

// overdraft is a refusal that still holds.
type overdraft struct {
	until   time.Time
	size    int64 // of the refused request, as it came
	samples int   // in it
	refusal *wire.UserError
}

// begin notes a refusal.
func (o *overdrawn) begin(id tenant.ID, d overdraft, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byTenant == nil {
		o.byTenant = map[tenant.ID]overdraft{}
	}
	if len(o.byTenant) >= maxOverdrawn {
		maps.DeleteFunc(o.byTenant, func(_ tenant.ID, d overdraft) bool { return d.until.Before(now) })
	}
	o.byTenant[id] = d
}

// maxOverdrawn is how many are remembered before those are looked for that are
// over.
const maxOverdrawn = 1000

// refuses says whether a request of a size is refused. It returns how many
// samples it has, about: as many for its size as the one that was read.
func (o *overdrawn) refuses(id tenant.ID, size int64, now time.Time) (*wire.UserError, int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	last, ok := o.byTenant[id]
	switch left := last.until.Sub(now); {
	case !ok:
	case left <= 0:
		delete(o.byTenant, id)
	case size >= last.size:
		err := *last.refusal
		err.RetryAfter = left
		return &err, int(float64(last.samples) * float64(size) / float64(last.size))
	}
	return nil, 0
}

// admit decides by what is known of a request before it is read.
func (d *Distributor) admit(id tenant.ID, l *tenant.Limits, size int64) error {
	if size > int64(d.cfg.MaxRequestBytes) {
		return tooLarge(d.cfg.MaxRequestBytes)
	}
	err := d.checkRate(id, l, 1, quota{
		of: &d.requestRates, what: "requests", id: "err-request-rate", burstID: "err-request-rate",
		limit: "request_rate", burst: "request_burst_size", perSecond: l.RequestRate, most: l.RequestBurst,
	})
	if err != nil {
		d.meter.Refused(id, err, []wire.RefusalCount{{ID: err.ID, Count: 1}})
		return err
	}
	err, samples := d.overdrawn.refuses(id, size, d.now())
	if err != nil {
		d.refuseWhole(id, err, samples)
		return err
	}
	return nil
}

// refuseWhole counts the samples of a request that is refused as a whole.
func (d *Distributor) refuseWhole(id tenant.ID, err *wire.UserError, samples int) {
	d.metrics.refused.WithLabelValues(err.ID).Add(float64(samples))
	d.meter.Refused(id, err, []wire.RefusalCount{{ID: err.ID, Count: samples}})
}

// slow refuses a request that was read and is over a rate, and those after it
// until there may be room for it.
func (d *Distributor) slow(id tenant.ID, err *wire.UserError, samples int, b *buffers) error {
	d.refuseWhole(id, err, samples)
	if size := int64(len(b.compressed)); err.RetryAfter > 0 && size > 0 && !b.recorded {
		now := d.now()
		d.overdrawn.begin(id, overdraft{until: now.Add(err.RetryAfter), size: size, samples: samples, refusal: err}, now)
	}
	return err
}

// roomIn is how long it takes until n fit again into a bucket that has some.
func roomIn(n int, have, perSecond float64) time.Duration {
	return time.Duration(math.Ceil((float64(n)-have)/perSecond*1e3)) * time.Millisecond
}
