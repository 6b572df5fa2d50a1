package storegateway

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
)

// maxMapped is how many bytes of files this process maps before it lets go of
// those of its indexes. The kernel still has them, and gives them back without
// reading, as long as nobody needs the memory more; only then it could not take
// them back from a process that reads on and on.
const maxMapped = 96 << 20

// mapping is where a file is in this process's memory; none if size is 0.
type mapping struct{ start, size uintptr }

// mappingOf finds a mapped index by its inode. What is found could be the file
// of another file system, but it is a file's: to let go of it loses nothing.
func mappingOf(index os.FileInfo) mapping {
	st, ok := index.Sys().(*syscall.Stat_t)
	maps, err := os.Open("/proc/self/maps")
	if err != nil || !ok {
		return mapping{}
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var start, end, offset uintptr
		var flags, device string
		var inode uint64
		n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %x %s %d", &start, &end, &flags, &offset, &device, &inode)
		if n == 6 && inode == st.Ino && strings.HasPrefix(flags, "r--s") {
			return mapping{start, end - start}
		}
	}
	return mapping{}
}

func (m mapping) letGo() {
	if m.size > 0 {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.start, m.size, syscall.MADV_DONTNEED) // it is advice
	}
}

// residence watches how much of all files is in this process's memory.
type residence struct {
	statm *os.File // nil: not known
	floor atomic.Int64
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
