package meter

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

const (
	home       = bucket.OwnHome + "/usage"
	hourLayout = "2006-01-02T15"

	observePeriod = time.Minute
	flushPeriod   = 5 * time.Minute // each costs a request, and what is not stored dies with the process
	flushTimeout  = 30 * time.Second
	maxUnstored   = 48 // hours that are kept while the bucket is away
)

func hourFolder(at time.Time) bucket.Key { return home.Join(at.UTC().Format(hourLayout)) }

// key is where this process stores an hour.
func (m *Meter) key(at time.Time) bucket.Key { return hourFolder(at).Join(m.name + ".ndjson.gz") }

func (m *Meter) run(ctx context.Context) error {
	observe, flush := time.NewTicker(observePeriod), time.NewTicker(flushPeriod)
	defer observe.Stop()
	defer flush.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-observe.C:
			m.observe(observePeriod)
		case <-flush.C:
			if err := m.Flush(ctx); err != nil && ctx.Err() == nil {
				m.logger.Warn("usage of tenants not stored, will retry", "err", err)
			}
		}
	}
}

func (m *Meter) stop(error) error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := m.Flush(ctx); err != nil {
		m.logger.Warn("last usage of tenants not stored", "err", err)
	}
	return nil
}

// observe notes how many series tenants have now, and how fast they have sent
// for a period.
func (m *Meter) observe(period time.Duration) {
	if m.o.Series != nil {
		m.o.Series(func(id tenant.ID, series int) {
			m.of(id, func(r *record) {
				r.ActiveSeries = float64(series) / float64(max(1, m.o.Replicas))
				r.SeriesPeak = max(r.SeriesPeak, r.ActiveSeries)
			})
		})
	}
	m.observeSets()
	m.observeBlocks()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.hours {
		for _, r := range h.tenants {
			r.SamplesPerSecond = float64(r.SamplesStored-r.before) / period.Seconds()
			r.before = r.SamplesStored
		}
	}
}

// observeSets notes how many series there are of label sets with a limit.
func (m *Meter) observeSets() {
	if m.o.LabelSets == nil {
		return
	}
	m.o.LabelSets(func(id tenant.ID, set string, series int) {
		m.of(id, func(r *record) {
			if r.ByLabelSet == nil {
				r.ByLabelSet = map[string]float64{}
			}
			r.ByLabelSet[set] = float64(series) / float64(max(1, m.o.Replicas))
		})
	})
}

// observeBlocks notes what is stored, in hours in which nothing else may happen.
// What does not change in an hour needs no writing.
func (m *Meter) observeBlocks() {
	if m.blocks == nil {
		return
	}
	at := m.now().UTC().Truncate(time.Hour)
	m.blocks(func(id tenant.ID, home bucket.Key, bytes int64) {
		if !m.knows(at, id, home, bytes) {
			m.of(id, func(r *record) { *r.storedIn(home) = bytes })
		}
	})
}

// knows says whether that is in the hour's record already.
func (m *Meter) knows(at time.Time, id tenant.ID, home bucket.Key, bytes int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.hours[at]
	return h != nil && h.tenants[id] != nil && *h.tenants[id].storedIn(home) == bytes
}

func (r *record) storedIn(home bucket.Key) *int64 {
	if home == bucket.PoolHome {
		return &r.BytesPooled
	}
	return &r.BytesStored
}

// Flush stores what was counted since the last time.
func (m *Meter) Flush(ctx context.Context) error {
	m.flushing.Lock()
	defer m.flushing.Unlock()
	present := m.now().UTC().Truncate(time.Hour)
	for _, at := range m.unstored() {
		raw, changes, err := m.encode(at)
		if err != nil {
			return fmt.Errorf("encode usage: %w", err)
		}
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		_, err = m.o.Bucket.Put(ctx, m.key(at), bytes.NewReader(raw), int64(len(raw)), bucket.Condition{})
		cancel()
		if err != nil {
			m.failures.Inc()
			return fmt.Errorf("store usage: %w", err)
		}
		m.mu.Lock()
		m.hours[at].stored = changes
		m.mu.Unlock()
	}
	m.forget(present)
	return nil
}

// unstored lists the hours that have changed, the oldest first.
func (m *Meter) unstored() []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []time.Time
	for at, h := range m.hours {
		if h.changes > h.stored {
			list = append(list, at)
		}
	}
	slices.SortFunc(list, time.Time.Compare)
	for len(list) > maxUnstored {
		delete(m.hours, list[0])
		list = list[1:]
	}
	return list
}

// forget drops hours that are over and stored. What is counted later than its
// hour goes to the present one.
func (m *Meter) forget(present time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at, h := range m.hours {
		if at.Before(present) && h.changes == h.stored {
			delete(m.hours, at)
		}
	}
}

// encode writes an hour: JSON, a line for each tenant, in gzip.
func (m *Meter) encode(at time.Time) (raw []byte, changes int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.hours[at]
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	enc := json.NewEncoder(z)
	for _, id := range slices.Sorted(maps.Keys(h.tenants)) {
		if err := enc.Encode(h.tenants[id]); err != nil {
			return nil, 0, err
		}
	}
	err = z.Close()
	return out.Bytes(), h.changes, err
}
