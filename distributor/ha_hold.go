package distributor

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// heldRequest is a request of a replica that was not elected when it came. It
// is answered as accepted, 202: it is stored if the replica takes over and the
// elected one has not been seen since, and dropped otherwise.
type heldRequest struct {
	key     haKey
	replica string
	at      time.Time
	version wire.Version
	body    []byte // compressed
}

// haSlack is how far behind the other one replica of a pair may send, as
// Prometheus waits up to five seconds (batch_send_deadline) for a request to
// fill: so much of what came before the last sign of life is held, too.
const haSlack = 5 * time.Second

// heldOverhead is about what a held request takes besides its body, in bytes.
const heldOverhead = 256

func (h *heldRequest) size() int { return len(h.body) + heldOverhead }

// hold keeps a copy of a request of which series were dropped, for each of the
// replicas that sent them. Where there is no room the latest is not held, and
// no tenant may take more than a quarter: nobody loses what others need room
// for.
func (t *haTracker) hold(id tenant.ID, v wire.Version, compressed []byte, groups []haGroup) {
	var body []byte
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range groups {
		g := &groups[i]
		p := t.pair(id, g.cluster)
		if g.verdict != haDropped || p == nil || t.cfg.MaxHeldBytes == 0 {
			continue
		}
		ht, size := t.tenants[id], len(compressed)+heldOverhead
		if t.held+size > t.cfg.MaxHeldBytes || ht.held+size > t.cfg.MaxHeldBytes/4 {
			t.metrics.unheld.Inc()
			continue
		}
		t.held += size
		ht.held += size
		if body == nil {
			body = slices.Clone(compressed)
		}
		p.held = append(p.held, &heldRequest{key: p.key, replica: strings.Clone(g.replica), at: now, version: v, body: body})
		if p.replica == g.replica { // it has taken over meanwhile
			t.letGo(p, now, p.replica)
		}
	}
}

// letGo ends the holding of what came for a pair until some time. What is of
// the replica is stored, the rest is not needed.
func (t *haTracker) letGo(p *haPair, until time.Time, replica string) {
	n := 0
	for ; n < len(p.held) && !p.held[n].at.After(until); n++ {
		if h := p.held[n]; h.replica == replica {
			t.ready = append(t.ready, h)
			wakeUp(t.due)
		} else {
			t.drop(h)
		}
		p.held[n] = nil
	}
	if p.held = p.held[n:]; len(p.held) == 0 {
		p.held = nil
	}
}

// drop gives back the room of a request that is held no more.
func (t *haTracker) drop(h *heldRequest) {
	t.held -= h.size()
	if ht := t.tenants[h.key.tenant]; ht != nil {
		ht.held -= h.size()
	}
}

// heldBytes is what is held, in bytes.
func (t *haTracker) heldBytes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held
}

// takeReady hands out what is to be stored. Who takes it calls drop for each.
func (t *haTracker) takeReady() []*heldRequest {
	t.mu.Lock()
	defer t.mu.Unlock()
	ready := t.ready
	t.ready = nil
	return ready
}

// storeHeld stores what was held for replicas that have taken over, until ctx
// ends.
func (d *Distributor) storeHeld(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.ha.due:
		}
		for _, h := range d.ha.takeReady() {
			if err := d.storeOne(ctx, h); err != nil && ctx.Err() == nil {
				d.logger.Error("samples of a replica that took over were not stored", "tenant", h.key.tenant, "cluster", h.key.cluster, "replica", h.replica, "err", err)
			}
			d.ha.mu.Lock()
			d.ha.drop(h)
			d.ha.mu.Unlock()
		}
	}
}

// Storing what was held is tried so often while there is no room, or the
// ingesters cannot take it: a replica rarely dies alone.
const (
	heldAttempts = 10
	heldRetry    = time.Second
)

func (d *Distributor) storeOne(ctx context.Context, h *heldRequest) (err error) {
	for range heldAttempts {
		if err = d.pushHeld(ctx, h); wire.KindOf(err) != wire.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(heldRetry):
		}
	}
	return err
}

// pushHeld is push for a held request, of which it stores the series that were
// held. They are not counted against the tenant's rate: they came in time.
func (d *Distributor) pushHeld(ctx context.Context, h *heldRequest) error {
	b := pool.Get().(*buffers)
	defer b.release()
	b.compressed = append(b.compressed[:0], h.body...)
	b.held = d.inflight.hold(h.key.tenant)
	size, err := d.decodedSize(b.compressed)
	if err != nil {
		return err
	}
	if err := b.reserve(size); err != nil {
		return err
	}
	if err := b.decompress(size); err != nil {
		return err
	}
	limits := d.limits(h.key.tenant)
	check := newValidator(limits, &b.request, d.now())
	check.ha = newHACheck(d.ha, h.key.tenant, limits, &b.request)
	check.ha.only = h
	if err := d.walk(h.key.tenant, h.version, b, check); err != nil {
		return err
	}
	if len(b.request.Series) == 0 {
		return nil
	}
	pushed, err := d.ingester.Push(ctx, h.key.tenant, &b.request)
	d.metrics.ha.stored.Add(float64(pushed.Samples + pushed.Histograms))
	if err == nil {
		d.meter.Stored(h.key.tenant, pushed.Samples+pushed.Histograms, 0) // its bytes were counted when it came
	}
	return err
}
