package storegateway

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// maxMapped is how many bytes of files this process maps before it lets go of
// those of its indexes. The kernel still has them, and gives them back without
// reading, as long as nobody needs the memory more; only then it could not take
// them back from a process that reads on and on.
const maxMapped = 96 << 20

// fileID is device and inode of a file as /proc/self/maps has them; "": not known.
type fileID string

func idOf(info os.FileInfo) fileID {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	major, minor := st.Dev>>8&0xfff|st.Dev>>32&^0xfff, st.Dev&0xff|st.Dev>>12&^0xff
	return fileID(fmt.Sprintf("%02x:%02x %d", major, minor, st.Ino))
}

// letGoOf lets go of files that are mapped. None of them is unmapped meanwhile:
// what else could come to lie there would be lost. Where a file system tells
// another device than the kernel, nothing is found, and all stays.
func letGoOf(files map[fileID]bool) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text()) // range, flags, offset, device, inode, path
		if len(f) < 5 || !files[fileID(f[3]+" "+f[4])] {
			continue
		}
		var start, end uintptr
		if n, _ := fmt.Sscanf(f[0], "%x-%x", &start, &end); n == 2 {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, start, end-start, syscall.MADV_DONTNEED) // it is advice
		}
	}
}

// residenceLooks is the least time between two looks. Reading a file as fast
// as memory allows does not map many times maxMapped in between.
const residenceLooks = 5 * time.Millisecond

// residence watches how much of all files is in this process's memory.
type residence struct {
	statm *os.File // nil: not known
	floor atomic.Int64
	next  atomic.Int64 // when to look again, in ns since the epoch
}

func newResidence() *residence {
	statm, err := os.Open("/proc/self/statm")
	if err != nil {
		return &residence{}
	}
	r := &residence{statm: statm}
	r.floor.Store(r.bytes())
	return r
}

// bytes is what is resident of files.
func (r *residence) bytes() int64 {
	var buf [128]byte
	n, _ := r.statm.ReadAt(buf[:], 0)
	var total, resident, shared int64
	if _, err := fmt.Sscan(string(buf[:n]), &total, &resident, &shared); err != nil {
		return 0
	}
	return shared * int64(os.Getpagesize())
}

// over says that it has grown by maxMapped since it was reset.
func (r *residence) over() bool {
	if r.statm == nil {
		return false
	}
	clock, next := time.Now().UnixNano(), r.next.Load()
	if clock < next || !r.next.CompareAndSwap(next, clock+residenceLooks.Nanoseconds()) {
		return false
	}
	now := r.bytes()
	if floor := r.floor.Load(); now < floor {
		r.floor.CompareAndSwap(floor, now)
	}
	return now > r.floor.Load()+maxMapped
}

func (r *residence) reset() { r.floor.Store(r.bytes()) }

func (r *residence) close() {
	if r.statm != nil {
		_ = r.statm.Close() // it was read only
	}
}
