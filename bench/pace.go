package main

import (
	"math"
	"slices"
	"sync"
)

// maxAhead is how many steps a sender may be ahead of the slowest. Data that
// is being collected arrives that way: a server may take what is far behind
// the newest for too old.
const maxAhead = 20

// pace keeps senders together in the load's time.
type pace struct {
	mu   sync.Mutex
	cond *sync.Cond

	at []int // the step each sender is at
}

func newPace(senders int) *pace {
	p := &pace{at: make([]int, senders)}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// enter says that a sender comes to a step, and waits until the slowest is
// near enough.
func (p *pace) enter(sender, step int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at[sender] != step {
		p.at[sender] = step
		p.cond.Broadcast()
	}
	for step > p.slowest()+maxAhead {
		p.cond.Wait()
	}
}

// leave says that nobody need wait for a sender any more. Every sender calls
// it, however it ends, so no other waits for ever.
func (p *pace) leave(sender int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[sender] = math.MaxInt - maxAhead
	p.cond.Broadcast()
}

func (p *pace) slowest() int { return slices.Min(p.at) }
