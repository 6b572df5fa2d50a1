package querier

import (
	"time"

	"github.com/hearth-metrics/hearth/tenant"
)

// A slow query keeps its slot for minutes, so turns alone do not help who comes
// while all slots are taken. Therefore one tenant never has the last slot, and
// while others ask as well it leaves a processor free for them: a query that
// needs a few milliseconds is not to wait for processors that are busy with
// another tenant's.

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

// share is how many of a line's queries may run at once. There are twice as
// many slots as processors.
func (q *queue) share(l *line) int {
	share := q.slots - 1
	if len(q.running) > l.running || q.recently.others(l.id, time.Now()) {
		share = q.slots/2 - 1
	}
	return max(1, min(share, l.max))
}
