package distributor

import (
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// quota is one of a tenant's limits on rates.
type quota struct {
	of        *tenant.Rates
	what      string // what is counted
	id        string // of the error for going too fast
	burstID   string // of the error for a single request that can never pass
	limit     string // names of the limits
	burst     string
	perSecond float64
	most      int
}

// checkRates takes a request's samples and bytes out of the tenant's buckets. A
// request that does not fit is refused whole: the sender sends it again later,
// unchanged.
func (d *Distributor) checkRates(id tenant.ID, l *tenant.Limits, samples, bytes int) *wire.UserError {
	if err := d.checkRate(id, l, bytes, quota{
		of: &d.byteRates, what: "bytes", id: "err-ingestion-bytes-rate", burstID: "err-ingestion-bytes-burst",
		limit: "ingestion_bytes_rate", burst: "ingestion_bytes_burst_size", perSecond: l.IngestionBytesRate, most: l.IngestionBytesBurst,
	}); err != nil {
		return err
	}
	return d.checkRate(id, l, samples, quota{
		of: &d.rates, what: "samples", id: "err-ingestion-rate", burstID: "err-ingestion-burst",
		limit: "ingestion_rate", burst: "ingestion_burst_size", perSecond: l.IngestionRate, most: l.IngestionBurst,
	})
}

// bytesOfASample is what a sample brings at most, labels included, before it
// counts as several.
const bytesOfASample = 4 << 10

// cost is how many samples a request counts as. Those that were refused are work
// too, and so are labels of any length. For them alone no request is too large.
func cost(samples, refused, bytes, burst int) int {
	return max(samples, min(burst, max(samples+refused, bytes/bytesOfASample)))
}

// checkSize refuses a request that is too large for what the tenant may send now,
// before it is decoded.
func (d *Distributor) checkSize(id tenant.ID, l *tenant.Limits, bytes int) (err *wire.UserError, counted int) {
	counted = cost(0, 0, bytes, l.IngestionBurst)
	if l.IngestionRate <= 0 || counted == 0 {
		return nil, 0
	}
	now, perSecond := d.now(), l.IngestionRate/float64(d.distributors())
	have := d.rates.Of(id, perSecond, l.IngestionBurst, now).TokensAt(now)
	if have >= float64(counted) {
		return nil, 0
	}
	err = wire.Errorf(rateKind(l), "err-ingestion-rate", "ingestion rate limit of %g samples/s reached (limit ingestion_rate) by a request of %d bytes, which counts as %d; send less, or ask for a higher limit", l.IngestionRate, bytes, counted)
	err.RetryAfter = roomIn(counted, have, perSecond)
	return err, counted
}

func (d *Distributor) checkRate(id tenant.ID, l *tenant.Limits, n int, q quota) *wire.UserError {
	if q.perSecond <= 0 || n == 0 {
		return nil
	}
	if n > q.most {
		return wire.Errorf(wire.TooLarge, q.burstID, "the request has %d %s, the limit is %d (limit %s); send smaller requests", n, q.what, q.most, q.burst)
	}
	now := d.now()
	// Requests are spread evenly over the distributors, so each has its share.
	perSecond := q.perSecond / float64(d.distributors())
	lim := q.of.Of(id, perSecond, q.most, now)
	if lim.AllowN(now, n) {
		return nil
	}
	err := wire.Errorf(rateKind(l), q.id, "ingestion rate limit of %g %s/s reached (limit %s) by a request of %d; send less, or ask for a higher limit", q.perSecond, q.what, q.limit, n)
	err.RetryAfter = roomIn(n, lim.TokensAt(now), perSecond)
	return err
}

// rateKind is how a tenant wants to hear that it is too fast. Prometheus drops
// what is answered 429, unless it is told not to; 503 it sends again.
func rateKind(l *tenant.Limits) wire.Kind {
	if l.RateLimitStatus == wire.Unavailable.HTTPStatus() {
		return wire.Unavailable
	}
	return wire.Limited
}
