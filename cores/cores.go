// Package cores is the GEARS: how many processors there are, and who gives way
// to whom on them.
//
// Go lets a goroutine compute for 10 ms before another one has its place, and
// nobody looks at the network meanwhile when all places are taken: on two cores,
// two long queries make a write of a millisecond take thirty. The kernel knows
// better: it interrupts who computes for who has just been woken, and has
// priorities. So Go gets more places than there are processors, and the kernel
// divides these among the threads. Start reading at Overcommit, then Long.
package cores

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long work is not held to be long: most queries take less.
const patience = 20 * time.Millisecond

// maxMore bounds the places that there are above the number of processors. On
// large machines few are enough, and the collector takes its share of them all.
const maxMore = 8

var (
	count     = runtime.GOMAXPROCS(0)
	committed atomic.Bool // there are more places than processors
)

// Count is how many processors this process may use, as many as it was given
// when it started: what pools of workers follow.
func Count() int { return count }

// Overcommit gives Go twice as many places as there are processors, or maxMore
// more. It does nothing where somebody has decided with GOMAXPROCS, or where the
// container may use only a part of the processors: there the kernel stops all
// threads for a while when together they have used too much. Called once, by
// main.
func Overcommit() {
	if os.Getenv("GOMAXPROCS") != "" || count != runtime.NumCPU() {
		return
	}
	runtime.GOMAXPROCS(count + min(count, maxMore))
	committed.Store(true)
}

// Long runs f, which may compute for long. Once it has taken patience, it gets a
// tenth of what others get of a processor as long as they want it, and all that
// is left. f has a goroutine and a thread of its own; locks that others need
// should be short there, as everywhere. A panic of f is one of Long.
func Long(f func()) {
	if !committed.Load() {
		f()
		return
	}
	done := make(chan any)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, as nobody else
		// is to get one that gives way.
		runtime.LockOSThread()
		var panicked any
		defer func() { done <- panicked }()
		defer lowerAfter(patience)()
		defer func() {
			if panicked = recover(); panicked != nil {
				panicked = withStack(panicked)
			}
		}()
		f()
	}()
	if p := <-done; p != nil {
		panic(p)
	}
}

// lowerAfter lowers the priority of the calling thread after a while, if stop has
// not been called by then. Once it has, the thread may end.
func lowerAfter(d time.Duration) (stop func()) {
	lower := lowering()
	var mu sync.Mutex
	stopped := false
	timer := time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			lower()
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}
}

// withStack keeps where it was for whoever reports a panic; errors, which may be
// compared, stay as they are.
func withStack(p any) any {
	var bug runtime.Error
	if err, ok := p.(error); ok && !errors.As(err, &bug) {
		return p
	}
	return fmt.Sprintf("%v\n%s", p, debug.Stack())
}
