package distributor

import (
	"sync"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// inflight bounds the memory of the requests in progress, and how much of it
// one tenant has: no more than is left for others. However much a tenant sends
// it ends at half of all, two such tenants at a third each, and whoever comes
// next finds room.
type inflight struct {
	max int64

	mu       sync.Mutex
	used     int64
	byTenant map[tenant.ID]int64
}

// held is what one request has of inflight.
type held struct {
	of    *inflight
	id    tenant.ID
	bytes int64
}

func (f *inflight) hold(id tenant.ID) held { return held{of: f, id: id} }

func (f *inflight) total() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// take reserves n more bytes, until end. The zero value is of nothing bounded.
func (h *held) take(n int64) error {
	f := h.of
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byTenant[h.id]+n > f.max-f.used {
		return &wire.UserError{Kind: wire.Unavailable, ID: "err-distributor-busy", Msg: "too many bytes of write requests are in progress, send the request again", RetryAfter: time.Second}
	}
	if f.byTenant == nil {
		f.byTenant = map[tenant.ID]int64{}
	}
	f.used += n
	f.byTenant[h.id] += n
	h.bytes += n
	return nil
}

// end gives back what was taken. The zero value has taken nothing.
func (h *held) end() {
	if h.bytes == 0 {
		return
	}
	f := h.of
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used -= h.bytes
	if f.byTenant[h.id] -= h.bytes; f.byTenant[h.id] == 0 {
		delete(f.byTenant, h.id)
	}
	h.bytes = 0
}
