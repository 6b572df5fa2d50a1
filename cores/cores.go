// Package cores is the GEARS: how many processors there are, and how many
// goroutines run at once on them.
//
// Go lets a goroutine compute for 10 ms before another one has its place, and
// nobody looks at the network meanwhile when all places are taken: on two cores,
// two long queries make a write of a millisecond take thirty. The kernel knows
// better: it interrupts who computes for who has just been woken. So Go gets more
// places than there are processors, and the kernel divides these among the
// threads. Start reading at Overcommit.
package cores

import (
	"os"
	"runtime"
)

// maxMore bounds the places that there are above the number of processors. On
// large machines few are enough, and the collector takes its share of them all.
const maxMore = 8

var count = runtime.GOMAXPROCS(0)

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
}
