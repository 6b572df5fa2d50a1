package ingester

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	gometrics "runtime/metrics"
	"sync"
	"syscall"
	"time"

	"github.com/hearth-metrics/hearth/wire"
)

// What must stay free on the disk for pushes to be taken. A TSDB writes chunks
// to disk when they are full, of all series at once at a block border, and has
// no way to go on where it cannot: it ends the process.
const (
	roomBase      = 64 << 20
	roomPerSeries = 512
)

const (
	lookAtRoom = 100 * time.Millisecond // at most that often
	awaitRoom  = time.Second
	tellOfRoom = time.Minute
)

// room knows whether the disk for recent data has room.
type room struct {
	dir string

	mu     sync.Mutex
	looked time.Time
	free   int64
	known  bool
}

// shortage says how much is missing, "" if nothing is, or if that cannot be
// known.
func (r *room) shortage(series int64) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.looked) > lookAtRoom {
		r.free, r.known = freeDisk(r.dir)
		r.looked = now
	}
	need := roomBase + roomPerSeries*series
	if !r.known || r.free >= need {
		return ""
	}
	return fmt.Sprintf("the disk for recent data is full: %d MiB are free, %d MiB must be", r.free>>20, need>>20)
}

// checkRoom refuses a push before the disk is so full that it would fail half
// way.
func (i *Ingester) checkRoom() error {
	what := i.room.shortage(i.series.Load())
	if was := i.full.Swap(what != ""); was != (what != "") {
		if was {
			i.logger.Info("disk has room again, writes are taken")
		} else {
			i.logger.Error("writes are refused", "err", what)
		}
	}
	if what == "" {
		return nil
	}
	return &wire.UserError{Kind: wire.Unavailable, ID: errStorage, Msg: "the disk for recent data is full, send the request again later", RetryAfter: 30 * time.Second}
}

// errMemory is told of series for which there is no memory.
const errMemory = "err-ingester-memory"

// What may be in use of the memory that the process has, for series to be added.
// The rest is for queries and cuts, and for the collector, which takes the
// processors from everything else if it has too little.
const (
	memoryShare     = 0.75
	memoryPerSeries = 2 << 10 // bytes, before the collector has seen a new one
	lookAtMemory    = 100 * time.Millisecond
)

// memory knows whether there is some for more series: what the collector has
// found to be in use, and what was added since.
type memory struct {
	mu      sync.Mutex
	looked  time.Time
	sample  [2]gometrics.Sample
	cycles  uint64 // of the collector
	counted int64  // series, when it had ended the last one
	used    int64
	limit   int64
}

// full says whether there is no memory for more than so many series.
func (m *memory) full(series int64) (full bool, limit int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.looked) > lookAtMemory {
		m.sample[0].Name, m.sample[1].Name = "/gc/cycles/total:gc-cycles", "/gc/heap/live:bytes"
		gometrics.Read(m.sample[:])
		if n := m.sample[0].Value.Uint64(); n != m.cycles || m.looked.IsZero() {
			m.cycles, m.counted = n, series
		}
		m.used, m.limit, m.looked = int64(m.sample[1].Value.Uint64()), debug.SetMemoryLimit(-1), now
	}
	used := m.used + max(0, series-m.counted)*memoryPerSeries
	return float64(used) > memoryShare*float64(m.limit), m.limit
}

// checkMemory refuses a new series when there is no memory for it.
func (i *Ingester) checkMemory() error {
	full, limit := i.memory.full(i.series.Load())
	if was := i.crowded.Swap(full); was != full {
		if full {
			i.logger.Error("new series are refused: there is no memory for more, add ingesters or memory", "memory_bytes", limit, "series", i.series.Load())
		} else {
			i.logger.Info("there is memory again, new series are taken")
		}
	}
	if !full {
		return nil
	}
	return &wire.UserError{
		Kind: wire.Unavailable, ID: errMemory, RetryAfter: 30 * time.Second,
		Msg: "there is no memory for new series at the moment; what belongs to series that are there is stored, send the request again later",
	}
}

// openWithRoom runs open when there is room, and again when the disk was full
// all the same, for as long as it takes: what was acknowledged is on that disk.
func (i *Ingester) openWithRoom(ctx context.Context, open func() error) error {
	defer i.waitsFor.Store("")
	told := time.Time{}
	for {
		what := i.room.shortage(0)
		if what == "" {
			err := open()
			if !isFull(err) {
				return err
			}
			what = err.Error()
		}
		i.waitsFor.Store(what)
		if time.Since(told) > tellOfRoom {
			told = time.Now()
			i.logger.Error("recent data cannot be opened, waiting for room on the disk", "err", what)
		}
		select {
		case <-time.After(awaitRoom):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// WaitsFor is what keeps the ingester from being ready, "" if nothing unusual.
func (i *Ingester) WaitsFor() string {
	what, _ := i.waitsFor.Load().(string)
	return what
}
