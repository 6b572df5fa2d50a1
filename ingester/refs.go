package ingester

import (
	"math/bits"
	"sync"

	"github.com/prometheus/prometheus/storage"

	"github.com/hearth-metrics/hearth/wire"
)

// refs maps the key of a series to its reference in a head, so that a sample
// of a known series is appended without its labels being built. It is a cache:
// a missing entry costs one look-up by labels, and a reference that the head
// has dropped meanwhile is refused by the head.
//
// It is one open-addressed table. A request asks for all its series at once:
// the look-ups of one loop do not depend on each other, so the processor waits
// for many cache misses at the same time and not for one after the other,
// which in a Go map behind a lock were a fifth of the cost of a sample. The
// key is a seeded hash, so its own bits place it; nothing in the table is a
// pointer, so the garbage collector does not look inside.
type refs struct {
	mu    sync.RWMutex
	slots []refSlot // at most 4/5 full; a series lies at or behind its home, without a gap
	used  int
}

type refSlot struct {
	key wire.Key
	ref storage.SeriesRef // 0: empty
}

// home is where a key lies if nothing else does: the slots are divided evenly
// among all keys, whatever their number.
func (r *refs) home(k wire.Key) int {
	hi, _ := bits.Mul64(k[0], uint64(len(r.slots)))
	return int(hi)
}

// find returns the slot of a key, or the empty one where it would go.
func (r *refs) find(k wire.Key) int {
	at := r.home(k)
	for r.slots[at].ref != 0 && r.slots[at].key != k {
		if at++; at == len(r.slots) {
			at = 0
		}
	}
	return at
}

// lookup appends the references of all series to out, 0 for an unknown one.
func (r *refs) lookup(series []wire.Series, out []storage.SeriesRef) []storage.SeriesRef {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.used == 0 {
		for range series {
			out = append(out, 0)
		}
		return out
	}
	for i := range series {
		out = append(out, r.slots[r.find(series[i].Key)].ref)
	}
	return out
}

func (r *refs) put(k wire.Key, ref storage.SeriesRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if (r.used+1)*5 > len(r.slots)*4 {
		r.resize(len(r.slots)*3/2 + 16)
	}
	slot := &r.slots[r.find(k)]
	if slot.ref == 0 {
		r.used++
	}
	*slot = refSlot{k, ref}
}

func (r *refs) resize(n int) {
	old := r.slots
	r.slots = make([]refSlot, n)
	for _, s := range old {
		if s.ref != 0 {
			r.slots[r.find(s.key)] = s
		}
	}
}

// drop forgets a series that the head has deleted, unless it was created anew
// meanwhile under another reference.
func (r *refs) drop(k wire.Key, ref storage.SeriesRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used == 0 {
		return
	}
	gap := r.find(k)
	if r.slots[gap].ref != ref {
		return
	}
	r.close(gap)
	r.used--
	if len(r.slots) > 1024 && r.used*4 < len(r.slots) {
		r.resize(len(r.slots) / 2)
	}
}

// reset forgets everything.
func (r *refs) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots, r.used = nil, 0
}

// close empties a slot and moves up those behind it that may lie there, so
// that no search stops too early.
func (r *refs) close(gap int) {
	n := len(r.slots)
	for at := gap; ; {
		if at++; at == n {
			at = 0
		}
		if r.slots[at].ref == 0 {
			break
		}
		// The entry at at may move to the gap if its home is not behind it.
		if (at-r.home(r.slots[at].key)+n)%n >= (at-gap+n)%n {
			r.slots[gap] = r.slots[at]
			gap = at
		}
	}
	r.slots[gap] = refSlot{}
}
