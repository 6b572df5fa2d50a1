package ruler

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/grafana/dskit/kv/memberlist"

	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Cluster is this ruler among others.
type Cluster struct {
	Self    string                                      // who we are
	Rulers  func() []ring.Member                        // that take part now, in order; we are one of them once others know us
	Changes ChangeStore                                 // where rulers tell each other whose rules have changed
	Call    func(ring.Member) (wire.RulerServer, error) // to ask another
	Logger  *slog.Logger
}

// ChangeStore passes news on. kv.Client of dskit is one; values are coded by
// ChangesCodec.
type ChangeStore interface {
	CAS(ctx context.Context, key string, f func(in any) (out any, retry bool, err error)) error
	WatchKey(ctx context.Context, key string, f func(value any) bool)
}

const (
	changesKey    = "rule-changes"
	keptChanges   = 2 * listTick // older ones have been found in the bucket
	tellTimeout   = 10 * time.Second
	listenAgainIn = time.Second
)

// tell has the other rulers read a tenant's rules. Where it fails they are
// minutes late.
func (c *Cluster) tell(ctx context.Context, id tenant.ID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
	defer cancel()
	now := time.Now()
	err := c.Changes.CAS(ctx, changesKey, func(in any) (any, bool, error) {
		have, _ := in.(changes)
		next := changes{}
		for id, at := range have {
			if now.UnixMilli()-at < keptChanges.Milliseconds() {
				next[id] = at
			}
		}
		next[string(id)] = max(next[string(id)]+1, now.UnixMilli())
		return next, true, nil
	})
	if err != nil {
		c.Logger.Warn("other rulers not told of changed rules", "tenant", id, "err", err)
	}
}

// listen calls changed for each tenant whose rules somebody has changed.
func (c *Cluster) listen(ctx context.Context, changed func(tenant.ID)) {
	heard := changes{}
	for ctx.Err() == nil {
		c.Changes.WatchKey(ctx, changesKey, func(v any) bool {
			news, _ := v.(changes)
			for id, at := range news {
				if heard[id] < at {
					changed(tenant.ID(id))
				}
			}
			heard = maps.Clone(news)
			return true
		})
		select { // it ends early only if the store does
		case <-ctx.Done():
		case <-time.After(listenAgainIn):
		}
	}
}

// changes is when tenants' rules were changed lately, in milliseconds.
type changes map[string]int64

// Merge implements memberlist.Mergeable: the latest change counts. A change
// that is old enough to be forgotten is not taken up again.
func (c changes) Merge(other memberlist.Mergeable, _ bool) (memberlist.Mergeable, error) {
	o, ok := other.(changes)
	if !ok {
		return nil, fmt.Errorf("merge changes of rules: got a %T", other)
	}
	oldest := time.Now().Add(-keptChanges).UnixMilli()
	news := changes{}
	for id, at := range o {
		if at > c[id] && at > oldest {
			c[id], news[id] = at, at
		}
	}
	if len(news) == 0 {
		return nil, nil //nolint:nilnil // memberlist wants it so
	}
	return news, nil
}

// MergeContent implements memberlist.Mergeable.
func (c changes) MergeContent() []string {
	ids := make([]string, 0, len(c))
	for id := range c {
		ids = append(ids, id)
	}
	return ids
}

// RemoveTombstones implements memberlist.Mergeable: what is old goes.
func (c changes) RemoveTombstones(time.Time) (total, removed int) {
	oldest := time.Now().Add(-keptChanges).UnixMilli()
	maps.DeleteFunc(c, func(_ string, at int64) bool { return at <= oldest })
	return 0, 0
}

// Clone implements memberlist.Mergeable.
func (c changes) Clone() memberlist.Mergeable { return maps.Clone(c) }

// ChangesCodec writes changes for the store, as JSON.
type ChangesCodec struct{}

// CodecID implements codec.Codec.
func (ChangesCodec) CodecID() string { return "hearth-rule-changes" }

// Encode implements codec.Codec.
func (ChangesCodec) Encode(v any) ([]byte, error) { return json.Marshal(v) }

// Decode implements codec.Codec.
func (ChangesCodec) Decode(data []byte) (any, error) {
	c := changes{}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("decode changes of rules: %w", err)
	}
	return c, nil
}
