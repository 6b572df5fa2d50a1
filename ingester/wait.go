package ingester

import "time"

// What a block costs in requests does not depend on how little is in it. So a
// tenant's own head that holds little is not cut each block range, but waits
// until the end of the longest range that blocks are merged to anyway.

// ownBytes is what the logs and chunks of heads that wait may have on disk, all
// together. A start reads them.
const ownBytes = 2 << 30

// CutUpTo lets heads of middling tenants wait to be cut until a range of time
// is full, a multiple of the block range. It is for ingesters that have
// replicas: what waits is on their disks only. It is called before the service
// starts.
func (i *Ingester) CutUpTo(d time.Duration) {
	if d%time.Duration(i.cfg.BlockRange) == 0 {
		i.cutUpTo = d
	}
}

// longest is the range of time (ms) that one block of a head may cover.
func (i *Ingester) longest(h *head) int64 {
	if h.pooled() {
		return h.blockRange(i)
	}
	return max(h.blockRange(i), i.cutUpTo.Milliseconds())
}

// mayWait says that a tenant's own head can as well be cut later. Each may have
// an equal share of ownBytes. And its series must be much the same as after the
// last cut: those that have ended are counted as active until they are cut,
// and in memory.
func (i *Ingester) mayWait(h *head) bool {
	hd := h.db.Head()
	if hd.NumSeries() > h.seriesAfterCut+h.seriesAfterCut/10 {
		return false
	}
	own := len(i.heads()) - len(i.pools)
	return hd.Size() <= i.ownBytes/int64(max(1, own))
}
