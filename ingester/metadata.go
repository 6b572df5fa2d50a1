package ingester

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/metadata"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// metadataTTL is how long metadata is kept that no sender repeats. Prometheus
// repeats it every minute.
const metadataTTL = time.Hour

// metadataStore holds the metadata of one tenant's metrics, in memory: its
// senders repeat it. The zero value is empty.
type metadataStore struct {
	mu     sync.RWMutex
	byName map[string]map[metadata.Metadata]*time.Time // when last received
}

// update takes in what a request carries, for at most so many metrics and for
// each so many different types, units and help texts; the rest is left out.
func (s *metadataStore) update(ms []wire.Metadata, l *tenant.Limits, now time.Time) {
	if len(ms) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range ms {
		md := metadata.Metadata{Type: m.Type, Unit: m.Unit, Help: m.Help}
		known := s.byName[m.Family]
		if at := known[md]; at != nil {
			// Through the pointer: assigning to the map would put the
			// request's strings, which are on loan, in the place of ours.
			*at = now
			continue
		}
		md.Unit, md.Help = strings.Clone(md.Unit), strings.Clone(md.Help)
		switch {
		case known != nil && (l.MaxMetadataPerMetric <= 0 || len(known) < l.MaxMetadataPerMetric):
			known[md] = new(now)
		case known != nil:
		case l.MaxMetadata > 0 && len(s.byName) >= l.MaxMetadata:
		default:
			if s.byName == nil {
				s.byName = map[string]map[metadata.Metadata]*time.Time{}
			}
			s.byName[strings.Clone(m.Family)] = map[metadata.Metadata]*time.Time{md: new(now)}
		}
	}
}

// expire forgets what was not repeated since then.
func (s *metadataStore) expire(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, known := range s.byName {
		for md, at := range known {
			if at.Before(before) {
				delete(known, md)
			}
		}
		if len(known) == 0 {
			delete(s.byName, name)
		}
	}
}

// get returns the metadata of one metric, or of all if metric is empty. Limits
// of 0 or less are none.
func (s *metadataStore) get(metric string, limit, perMetric int) map[string][]metadata.Metadata {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := map[string][]metadata.Metadata{}
	for name, known := range s.byName {
		if metric != "" && name != metric {
			continue
		}
		if limit > 0 && len(out) >= limit {
			break
		}
		for md := range known {
			if perMetric > 0 && len(out[name]) >= perMetric {
				break
			}
			out[name] = append(out[name], md)
		}
	}
	return out
}
