package meter

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// Hour is a tenant's usage in an hour.
type Hour struct {
	Hour   time.Time `json:"hour"` // its begin
	Tenant tenant.ID `json:"tenant"`
	Usage
}

// Usage returns what a tenant (each, with "") has used, for each hour that
// begins from from on and before to. What other processes have counted in the
// last five minutes is not in it yet.
func (m *Meter) Usage(ctx context.Context, id tenant.ID, from, to time.Time) ([]Hour, error) {
	list := []Hour{}
	err := m.each(ctx, id, from, to, func(at time.Time, byTenant map[tenant.ID]*record) {
		first := len(list)
		for id, r := range byTenant {
			list = append(list, Hour{at, id, r.Usage})
		}
		slices.SortFunc(list[first:], func(a, b Hour) int { return bytes.Compare([]byte(a.Tenant), []byte(b.Tenant)) })
	})
	return list, err
}

// Refusals is Usage of one tenant, with its last refusals, the newest first.
func (m *Meter) Refusals(ctx context.Context, id tenant.ID, from, to time.Time) (hours []Hour, last []Refusal, err error) {
	last = []Refusal{}
	err = m.each(ctx, id, from, to, func(at time.Time, byTenant map[tenant.ID]*record) {
		if r := byTenant[id]; r != nil {
			hours = append(hours, Hour{at, id, r.Usage})
			last = append(last, r.Refusals...)
		}
	})
	slices.SortStableFunc(last, func(a, b Refusal) int { return b.At.Compare(a.At) })
	return hours, last, err
}

// Stats returns what a tenant uses now, some minutes ago at most.
func (m *Meter) Stats(ctx context.Context, id tenant.ID) (Stats, error) {
	var s Stats
	now := m.now()
	err := m.each(ctx, id, now, now, func(_ time.Time, byTenant map[tenant.ID]*record) {
		if r := byTenant[id]; r != nil {
			s = r.Stats
		}
	})
	return s, err
}

// each calls f with the sum of all processes, for each hour of a time.
func (m *Meter) each(ctx context.Context, id tenant.ID, from, to time.Time, f func(time.Time, map[tenant.ID]*record)) error {
	for at := from.UTC().Truncate(time.Hour); !at.After(to); at = at.Add(time.Hour) {
		sum := map[tenant.ID]*record{}
		own := m.addOwn(at, id, sum)
		for o, err := range m.o.Bucket.List(ctx, hourFolder(at).Folder(), false) {
			if err != nil {
				return fmt.Errorf("list usage: %w", err)
			}
			if own && o.Key == m.key(at) {
				continue
			}
			if err := m.add(ctx, o.Key, id, sum); err != nil {
				return err
			}
		}
		for _, r := range sum {
			r.BytesStored += r.BytesPooled
		}
		f(at, sum)
	}
	return nil
}

// addOwn adds what this process has counted to a sum, if it remembers that hour.
func (m *Meter) addOwn(at time.Time, id tenant.ID, sum map[tenant.ID]*record) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.hours[at]
	if h == nil {
		return false
	}
	for _, r := range h.tenants {
		if id == "" || r.Tenant == id {
			join(sum, r)
		}
	}
	return true
}

func join(sum map[tenant.ID]*record, r *record) {
	if sum[r.Tenant] == nil {
		sum[r.Tenant] = &record{Tenant: r.Tenant}
	}
	sum[r.Tenant].add(r)
}

// add adds an object to a sum. Lines of other tenants are passed over unread.
func (m *Meter) add(ctx context.Context, key bucket.Key, id tenant.ID, sum map[tenant.ID]*record) error {
	body, _, err := m.o.Bucket.Get(ctx, key)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read usage: %w", err)
	}
	defer body.Close()
	z, err := gzip.NewReader(body)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	var begin []byte
	if id != "" {
		quoted, err := json.Marshal(id)
		if err != nil {
			return err
		}
		begin = append([]byte(`{"tenant":`), quoted...)
		begin = append(begin, ',')
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !bytes.HasPrefix(lines.Bytes(), begin) {
			continue
		}
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		join(sum, &r)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

func (r *record) add(o *record) {
	r.SamplesStored += o.SamplesStored
	r.BytesReceived += o.BytesReceived
	r.SeriesPeak += o.SeriesPeak // each ingester has its part
	r.Queries += o.Queries
	r.SeriesRead += o.SeriesRead
	r.SamplesRead += o.SamplesRead
	r.BytesRead += o.BytesRead
	r.RuleEvaluations += o.RuleEvaluations
	r.Notifications += o.Notifications
	r.BytesStored = max(r.BytesStored, o.BytesStored) // several may have looked at the same
	r.BytesPooled = max(r.BytesPooled, o.BytesPooled)
	r.SamplesPerSecond += o.SamplesPerSecond
	r.ActiveSeries += o.ActiveSeries
	for set, n := range o.ByLabelSet {
		if r.ByLabelSet == nil {
			r.ByLabelSet = map[string]float64{}
		}
		r.ByLabelSet[set] += n
	}
	for id, n := range o.SamplesRefused {
		if r.SamplesRefused == nil {
			r.SamplesRefused = map[string]int64{}
		}
		r.SamplesRefused[id] += n
	}
	r.Refusals = append(r.Refusals, o.Refusals...)
}
