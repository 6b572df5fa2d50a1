package ingester

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
)

// member is what the ingester knows of one tenant.
//
// A tenant's samples lie in its pooled head up to a border in time, and from
// the border on in a head of its own, if it has one. As a sample's place
// follows from its timestamp alone, a repeated sample always meets itself, and
// no block of one place overlaps a block of the other.
type member struct {
	id tenant.ID

	own     atomic.Pointer[head] // nil: all samples go to the pool
	ownFrom atomic.Int64         // ms; meaningful while own is set

	newest atomic.Int64 // ms; newest sample stored since start, math.MinInt64 for none
	pushed atomic.Int64 // ms of the wall clock; the last push
	series atomic.Int64 // in memory, in all heads
	naming sync.Mutex   // see store
	meta   metadataStore
}

// headFor returns the tenant's own head if a sample of that time belongs
// there, nil if it belongs to the pool.
func (m *member) headFor(t int64) *head {
	if h := m.own.Load(); h != nil && t >= m.ownFrom.Load() {
		return h
	}
	return nil
}

func (m *member) settle(h *head, from int64) {
	m.ownFrom.Store(from)
	m.own.Store(h)
}

func (m *member) sawNewest(t int64) {
	for {
		old := m.newest.Load()
		if t <= old || m.newest.CompareAndSwap(old, t) {
			return
		}
	}
}

// member returns a tenant's entry, making it if needed.
func (i *Ingester) member(id tenant.ID) *member {
	if m := i.knownMember(id); m != nil {
		return m
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	m := i.tenants[id]
	if m == nil {
		m = &member{id: id}
		m.newest.Store(math.MinInt64)
		i.tenants[id] = m
		i.metrics.tenants.Set(float64(len(i.tenants)))
	}
	return m
}

func (i *Ingester) knownMember(id tenant.ID) *member {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.tenants[id]
}

func (i *Ingester) members() []*member {
	i.mu.RLock()
	defer i.mu.RUnlock()
	out := make([]*member, 0, len(i.tenants))
	for _, m := range i.tenants {
		out = append(out, m)
	}
	return out
}

// EachTenant yields how many active series each tenant has here.
func (i *Ingester) EachTenant(yield func(id tenant.ID, series int)) {
	for _, m := range i.members() {
		yield(m.id, int(m.series.Load()))
	}
}

// placements says from which time on (ms) a tenant's samples go to a head of
// its own. Tenants that are not in it live in the pool.
type placements map[tenant.ID]int64

const placementsFile = "placements.json"

func readPlacements(dir string) (placements, error) {
	p := placements{}
	b, err := os.ReadFile(filepath.Join(dir, placementsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("read %s: %w", placementsFile, err)
	}
	return p, nil
}

// place gives a tenant a head of its own from a time on. The place is on disk
// before the first sample goes there.
func (i *Ingester) place(m *member, from int64) error {
	i.placing.Lock()
	defer i.placing.Unlock()
	if m.own.Load() != nil {
		return nil
	}
	i.placement[m.id] = from
	if err := writeJSON(i.path(placementsFile), i.placement); err != nil {
		delete(i.placement, m.id)
		return fmt.Errorf("place tenant %s in a head of its own: %w", m.id, err)
	}
	h, err := i.openHead(ownName(m.id), m.id)
	if err != nil {
		return err
	}
	m.settle(h, from)
	i.logger.Info("tenant gets a head of its own", "tenant", m.id, "series", m.series.Load(), "from", time.UnixMilli(from).UTC())
	return nil
}

// unplace closes a tenant's own head once nothing is left in it; the tenant's
// next samples go to the pool.
func (i *Ingester) unplace(m *member, h *head) error {
	i.placing.Lock()
	defer i.placing.Unlock()
	err := i.exclusive(h, func() error {
		if h.closed || !h.empty() {
			return errNotEmpty
		}
		h.closed = true
		i.metrics.heads.WithLabelValues(h.kind()).Dec()
		m.own.Store(nil)
		return h.db.Close()
	})
	if errors.Is(err, errNotEmpty) {
		return nil
	}
	delete(i.placement, m.id)
	return errors.Join(err, writeJSON(i.path(placementsFile), i.placement), os.RemoveAll(h.dir))
}

var errNotEmpty = errors.New("head is not empty")

// forgetIdle drops the entries of tenants that have nothing in memory, so the
// table does not grow with every tenant that ever wrote.
func (i *Ingester) forgetIdle(before time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for id, m := range i.tenants {
		if m.own.Load() == nil && m.series.Load() == 0 && m.pushed.Load() < before.UnixMilli() {
			delete(i.tenants, id)
		}
	}
	i.metrics.tenants.Set(float64(len(i.tenants)))
}

// writeJSON replaces a file whole or not at all.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
