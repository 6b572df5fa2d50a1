package ingester

import (
	"sync"

	"github.com/prometheus/prometheus/storage"

	"github.com/hearth-metrics/hearth/wire"
)

// refs maps the key of a series to its reference in a head, so that a sample
// of a known series is appended without its labels being built. It is a cache:
// a missing entry costs one look-up by labels, and a reference that the head
// has dropped meanwhile is refused by the head.
//
// The key is a seeded hash, so its own bits place it; neither keys nor values
// hold pointers, so the garbage collector does not look inside.
type refs struct {
	shards [refShards]refShard
}

const refShards = 64 // power of two; enough that writers of two cores rarely meet

type refShard struct {
	mu sync.RWMutex
	m  map[wire.Key]storage.SeriesRef

	_ [64 - 32]byte // a cache line each
}

func (r *refs) shard(k wire.Key) *refShard { return &r.shards[k[0]%refShards] }

// get returns the reference of a series, 0 if it is not known.
func (r *refs) get(k wire.Key) storage.SeriesRef {
	s := r.shard(k)
	s.mu.RLock()
	ref := s.m[k]
	s.mu.RUnlock()
	return ref
}

func (r *refs) put(k wire.Key, ref storage.SeriesRef) {
	s := r.shard(k)
	s.mu.Lock()
	if s.m == nil {
		s.m = map[wire.Key]storage.SeriesRef{}
	}
	s.m[k] = ref
	s.mu.Unlock()
}

// drop forgets a series that the head has deleted, unless it was created anew
// meanwhile under another reference.
func (r *refs) drop(k wire.Key, ref storage.SeriesRef) {
	s := r.shard(k)
	s.mu.Lock()
	if s.m[k] == ref {
		delete(s.m, k)
	}
	s.mu.Unlock()
}
