package querier

import (
	"math"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
)

// A slow query keeps its slot for minutes, so turns alone do not help who comes
// while all slots are taken. Therefore one tenant never has the last slot. And
// while several tenants ask, the one whose queries have run longest of late
// leaves a processor free for the others: a query that needs a few milliseconds
// is not to wait for processors that are busy with another tenant's.
//
// Few processors cannot be divided so: with two, one is all that is left to the
// slow queries, and it is busy for as long as there are any. So a tenant that asks
// even more than may wait, computes half of the time only, and gives way to the
// queries of those who do not.

// alone is after how long without another tenant's query a tenant has nobody
// to leave room for. Dashboards ask again sooner than that.
const alone = 5 * time.Minute

// asked is when a tenant has last asked.
type asked struct {
	id tenant.ID
	at time.Time
}

// recently are the last two tenants that have asked, the latest first.
type recently [2]asked

func (r *recently) note(id tenant.ID, now time.Time) {
	if r[0].id != id {
		r[1] = r[0]
	}
	r[0] = asked{id, now}
}

// others says whether another tenant has asked lately.
func (r *recently) others(id tenant.ID, now time.Time) bool {
	last := r[0]
	if last.id == id {
		last = r[1]
	}
	return last.id != "" && now.Sub(last.at) < alone
}

// spent is how long the queries of each tenant have run. Older time counts
// less: half of it after a minute. As that is so for all tenants alike, what is
// new is made larger instead, and who has spent the most stays it until another
// one passes.
type spent struct {
	since    time.Time // when time had the weight 1
	byTenant map[tenant.ID]float64
	most     tenant.ID
}

const (
	spentHalf   = time.Minute
	spentFor    = 32 * spentHalf // until weights are made small again
	spentEnough = 1e-6           // seconds that are worth keeping then
)

func (s *spent) weight(now time.Time) float64 {
	if s.since.IsZero() { // nobody has spent anything
		return 1
	}
	return math.Exp2(now.Sub(s.since).Seconds() / spentHalf.Seconds())
}

func (s *spent) add(id tenant.ID, d time.Duration, now time.Time) {
	if s.byTenant == nil || now.Sub(s.since) > spentFor {
		s.shrink(now)
	}
	s.byTenant[id] += d.Seconds() * s.weight(now)
	if s.byTenant[id] > s.byTenant[s.most] {
		s.most = id
	}
}

// shrink forgets who has spent next to nothing of late.
func (s *spent) shrink(now time.Time) {
	kept := map[tenant.ID]float64{}
	for id, n := range s.byTenant {
		if n /= s.weight(now); n > spentEnough {
			kept[id] = n
		}
	}
	s.byTenant, s.since = kept, now
}

// isMost says whether a tenant has spent the most, where the queries that it
// has running have taken so long.
func (s *spent) isMost(id tenant.ID, running time.Duration, now time.Time) bool {
	return id == s.most || s.byTenant[id]+running.Seconds()*s.weight(now) > s.byTenant[s.most]
}

// share is how many of a line's queries may run at once. There are twice as
// many slots as processors.
func (q *queue) share(l *line) int {
	now, share := time.Now(), q.slots-1
	if len(q.running) > l.running || q.recently.others(l.id, now) {
		var running time.Duration
		for t := range q.running {
			if t.line == l {
				running += now.Sub(t.began)
			}
		}
		if l.tooMuch(now) || q.spent.isMost(l.id, running, now) {
			share = q.slots/2 - 1
		}
	}
	return max(1, min(share, l.max))
}

const (
	overFor      = 10 * time.Second       // a tenant asks too much, after it was refused a place in its line
	pauseAfter   = 250 * time.Microsecond // of computing
	longestPause = 20 * time.Millisecond  // as a query must notice that it was cancelled
)

// pause is called between two series of an evaluation. While the tenant asks too
// much, it takes as long as the query has computed since the last pause, so that
// half of a processor is free for others. What asks without a ticket, as rules do,
// has its own bounds.
//
// A query stands still where it would not have begun with the share that the
// tenant has now, until an older one has ended; and for up to half of its time
// where those of others, who do not ask too much, need all processors but one.
func (t *ticket) pause() {
	if t == nil {
		return
	}
	now := time.Now()
	ran := now.Sub(t.rested)
	if ran < pauseAfter {
		return
	}
	if owed := t.queue.owed(t, ran, now); owed > 0 {
		time.Sleep(owed)
		rested := time.Now()
		t.queue.paused.Add(int64(rested.Sub(now)))
		now = rested
	}
	t.rested = now
}

// owed is how long a query pauses that ran for so long.
func (q *queue) owed(t *ticket, ran time.Duration, now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !t.line.tooMuch(now) || !q.recently.others(t.line.id, now) {
		return 0
	}
	older, others := 0, 0
	for other := range q.running {
		switch {
		case other.line == t.line && other.began.Before(t.began):
			older++
		case other.line != t.line && !other.line.tooMuch(now):
			others++
		}
	}
	switch {
	case older >= q.share(t.line):
		return longestPause
	case older+others >= q.slots/2-1 && t.yielded < now.Sub(t.began)/2:
		t.yielded += longestPause
		return longestPause
	}
	return min(ran, longestPause)
}

// tooMuch says whether a line has been full of late.
func (l *line) tooMuch(now time.Time) bool { return now.Sub(l.refused) < overFor }
