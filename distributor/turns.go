package distributor

import (
	"context"
	"slices"
	"sync"

	"github.com/hearth-metrics/hearth/tenant"
)

// turns has as many requests decoded at once as there are processors, and of one
// tenant half as many: to decode is less than half of the work that a request is,
// and a request of megabytes takes long. When more wait, tenants take turns: one
// that sends hundreds at once does not keep another's single request waiting.
type turns struct {
	most int // of one tenant

	mu      sync.Mutex
	free    int
	running map[tenant.ID]int
	waiting map[tenant.ID][]chan struct{} // requests in the order they came; closed: it is your turn
	next    []tenant.ID                   // those that have some waiting
}

// turn is what a request has of turns.
type turn struct {
	of *turns
	id tenant.ID
}

// newTurns makes turns for a tenant's most requests at once, and for twice as many
// of all.
func newTurns(most int) *turns {
	return &turns{most: most, free: 2 * most, running: map[tenant.ID]int{}, waiting: map[tenant.ID][]chan struct{}{}}
}

// take waits for a turn of the tenant. It lasts until end.
func (t *turns) take(ctx context.Context, id tenant.ID) (turn, error) {
	granted := t.ask(id)
	if granted == nil {
		return turn{t, id}, nil
	}
	select {
	case <-granted:
		return turn{t, id}, nil
	case <-ctx.Done():
		t.leave(id, granted)
		return turn{}, ctx.Err()
	}
}

// ask returns nil where it is the tenant's turn at once.
func (t *turns) ask(id tenant.ID) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free > 0 && t.running[id] < t.most {
		t.begin(id)
		return nil
	}
	granted := make(chan struct{})
	if len(t.waiting[id]) == 0 {
		t.next = append(t.next, id)
	}
	t.waiting[id] = append(t.waiting[id], granted)
	return granted
}

// leave takes back what was asked, also if it was granted meanwhile.
func (t *turns) leave(id tenant.ID, granted chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := slices.Index(t.waiting[id], granted)
	if k < 0 {
		t.pass(id)
		return
	}
	t.waiting[id] = slices.Delete(t.waiting[id], k, k+1)
	if len(t.waiting[id]) == 0 {
		delete(t.waiting, id)
		t.next = slices.Delete(t.next, slices.Index(t.next, id), slices.Index(t.next, id)+1)
	}
}

// begin counts a turn. It is called under mu, as pass is.
func (t *turns) begin(id tenant.ID) {
	t.free--
	t.running[id]++
}

// pass gives a tenant's turn to the next tenant that may have one more.
func (t *turns) pass(from tenant.ID) {
	t.free++
	if t.running[from]--; t.running[from] == 0 {
		delete(t.running, from)
	}
	k := slices.IndexFunc(t.next, func(id tenant.ID) bool { return t.running[id] < t.most })
	if k < 0 {
		return
	}
	id := t.next[k]
	t.next = slices.Delete(t.next, k, k+1)
	first := t.waiting[id][0]
	if t.waiting[id] = t.waiting[id][1:]; len(t.waiting[id]) > 0 {
		t.next = append(t.next, id)
	} else {
		delete(t.waiting, id)
	}
	t.begin(id)
	close(first)
}

// end gives the turn to the next who waits. The zero value has none.
func (t *turn) end() {
	if t.of == nil {
		return
	}
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.of.pass(t.id)
	t.of = nil
}
