package querier

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	// waitingPerRunning bounds a tenant's line: so many wait for each that may run.
	waitingPerRunning = 2
	// waitingPerSlot bounds all lines together, so that many tenants cannot
	// fill the memory with requests that wait.
	waitingPerSlot = 256
)

var errStopping = &wire.UserError{
	Kind: wire.Unavailable, ID: "err-querier-stopping", RetryAfter: time.Second,
	Msg: "this server is stopping, send the query again",
}

// queue lets so many queries run at once, of which one tenant has no more than
// its share (share.go), and makes the others wait in one line for each tenant.
// Whenever a slot is free the next tenant with somebody waiting has its turn,
// so a tenant that asks much delays mostly itself.
//
// Safe for concurrent use.
type queue struct {
	slots  int
	paused atomic.Int64 // how long queries have paused for others, in nanoseconds

	mu       sync.Mutex
	lines    map[tenant.ID]*line // tenants with somebody waiting or running
	turns    []*line             // lines that may start one, each once, in order of their turns
	running  map[*ticket]struct{}
	waiting  int
	closed   bool
	recently recently
	spent    spent
	idle     chan struct{} // made by close: closed when nobody runs any more
}

// line is one tenant's queries. Invariant: a line that has somebody waiting and
// runs less than it may is in turns. One that has nobody any more may still be.
type line struct {
	id      tenant.ID
	max     int // may run at once
	running int
	waiting []*ticket
	inTurns bool
	refused time.Time // when it last had no place for one more
}

// ticket is one query, from the moment it comes in until it has ended.
type ticket struct {
	queue   *queue
	line    *line
	cancel  context.CancelCauseFunc
	ready   chan struct{} // closed when it may run, or when err is set
	began   time.Time     // to run
	rested  time.Time     // when it last began to compute: of the goroutine that evaluates
	yielded time.Duration // how long it has stood still for the queries of others
	err     error
}

func newQueue(slots int) *queue {
	return &queue{
		slots:   slots,
		lines:   map[tenant.ID]*line{},
		running: map[*ticket]struct{}{},
	}
}

// acquire waits until the tenant's query may run; perTenant is how many of
// the tenant's may run at once, 0: as many as there are slots. The context it
// returns ends with the one it was given, which the caller ends at last, or
// when the queue is closed. The caller calls release when the query has been
// evaluated, once or more often.
func (q *queue) acquire(ctx context.Context, id tenant.ID, perTenant int) (_ context.Context, release func(), _ error) {
	if perTenant <= 0 {
		perTenant = q.slots
	}
	ctx, cancel := context.WithCancelCause(ctx)
	t := &ticket{queue: q, cancel: cancel, ready: make(chan struct{})}
	if err := q.enter(t, id, perTenant); err != nil {
		cancel(err)
		return nil, nil, err
	}
	release = sync.OnceFunc(func() { q.leave(t) })
	err := t.wait(ctx)
	if err != nil {
		release()
		cancel(err)
		return nil, nil, err
	}
	return context.WithValue(ctx, ticketKey{}, t), release, nil
}

// ticketKey is that of a query's ticket in its context.
type ticketKey struct{}

// ticketFrom returns the ticket of a query, nil if it did not have to queue.
func ticketFrom(ctx context.Context) *ticket {
	t, _ := ctx.Value(ticketKey{}).(*ticket)
	return t
}

// wait returns when the ticket may run. One that may run at once does so even
// if its time is over: the evaluation then says so in Prometheus' words.
func (t *ticket) wait(ctx context.Context) error {
	select {
	case <-t.ready:
		return t.err
	default:
	}
	select {
	case <-t.ready:
		return t.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enter puts a ticket at the end of its tenant's line, where it may be started
// at once.
func (q *queue) enter(t *ticket, id tenant.ID, perTenant int) error {
	q.mu.Lock()
	defer q.mu.Unlock()

	if q.closed {
		return errStopping
	}
	l := q.lines[id]
	if l == nil {
		l = &line{id: id}
		q.lines[id] = l
	}
	l.max = perTenant // the limit may have changed meanwhile
	t.line = l
	q.recently.note(id, time.Now())
	if starts := len(q.running) < q.slots && l.running < q.share(l); !starts {
		if err := q.full(l); err != nil {
			q.forget(l)
			return err
		}
	}
	l.waiting = append(l.waiting, t)
	q.waiting++
	q.offer(l)
	q.dispatch()
	return nil
}

func (q *queue) full(l *line) error {
	if most := waitingPerRunning * l.max; len(l.waiting) >= most {
		l.refused = time.Now()
		err := wire.Errorf(wire.Limited, "err-max-concurrent-queries",
			"%d queries are running and %d wait, the limit is %d running (limit max_concurrent_queries) and %d waiting. Send fewer at once or ask for a higher limit",
			l.running, len(l.waiting), l.max, most)
		err.RetryAfter = time.Second
		return err
	}
	if q.waiting >= waitingPerSlot*q.slots {
		err := wire.Errorf(wire.Unavailable, "err-query-queue-full", "too many queries wait, send the query again later")
		err.RetryAfter = time.Second
		return err
	}
	return nil
}

// dispatch starts whoever may start, one of each tenant in turn.
func (q *queue) dispatch() {
	for len(q.running) < q.slots && len(q.turns) > 0 {
		l := q.turns[0]
		q.turns, l.inTurns = q.turns[1:], false
		if len(l.waiting) == 0 || l.running >= q.share(l) {
			q.forget(l) // they gave up, or its share shrank, since it was offered
			continue
		}
		t := l.waiting[0]
		l.waiting = l.waiting[1:]
		q.waiting--
		l.running++
		q.running[t] = struct{}{}
		t.began = time.Now()
		t.rested = t.began
		close(t.ready)
		q.offer(l)
	}
}

// offer gives a line a turn where it can use one.
func (q *queue) offer(l *line) {
	if !l.inTurns && len(l.waiting) > 0 && l.running < q.share(l) {
		q.turns, l.inTurns = append(q.turns, l), true
	}
}

// leave takes a ticket out, running or waiting.
func (q *queue) leave(t *ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()

	l := t.line
	if _, ok := q.running[t]; ok {
		delete(q.running, t)
		l.running--
		now := time.Now()
		q.spent.add(l.id, now.Sub(t.began), now)
		q.offer(l)
	} else {
		for i, w := range l.waiting {
			if w == t {
				l.waiting = append(l.waiting[:i:i], l.waiting[i+1:]...)
				q.waiting--
				break
			}
		}
	}
	q.dispatch()
	q.forget(l)
	if q.closed && len(q.running) == 0 {
		q.finish()
	}
}

// forget drops a line that nobody is in, so that tenants leave nothing behind.
func (q *queue) forget(l *line) {
	if l.running == 0 && len(l.waiting) == 0 && !l.inTurns {
		delete(q.lines, l.id)
	}
}

// close sends away who waits, cancels who runs and lets nobody in. The
// channel is closed when the last one has ended.
func (q *queue) close() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()

	if q.closed {
		return q.idle
	}
	q.closed, q.idle = true, make(chan struct{})
	for _, l := range q.lines {
		for _, t := range l.waiting {
			t.err = errStopping
			close(t.ready)
		}
		l.waiting, l.inTurns = nil, false
	}
	q.waiting, q.turns = 0, nil
	for t := range q.running {
		t.cancel(errStopping)
	}
	if len(q.running) == 0 {
		q.finish()
	}
	return q.idle
}

func (q *queue) finish() {
	select {
	case <-q.idle:
	default:
		close(q.idle)
	}
}

func (q *queue) load() (waiting, running int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting, len(q.running)
}
