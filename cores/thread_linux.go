package cores

import "syscall"

// nice has a tenth of the weight of 0: see sched(7), and the table
// sched_prio_to_weight in Linux.
const nice = 10

// lowering returns what lowers the priority of the calling thread, of which Linux
// has one for each: setpriority(2). That it may not is no reason not to do the
// work.
func lowering() (lower func()) {
	thread := syscall.Gettid()
	return func() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, thread, nice) }
}
