package tenant

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/grafana/dskit/kv/memberlist"
)

// News is where processes tell each other that the registry has changed.
// kv.Client of dskit is one; values are coded by NewsCodec. It is for speed
// only: what is not heard is found by the next poll.
type News interface {
	CAS(ctx context.Context, key string, f func(in any) (out any, retry bool, err error)) error
	WatchKey(ctx context.Context, key string, f func(any) bool)
}

const (
	newsKey     = "tenants"
	newsTimeout = 5 * time.Second
)

// versions is what is shared: the newest version of each shard that has
// changed, by number.
type versions map[string]int64

// tell lets others know of a change. A failure costs them minutes, not the
// change.
func (r *Registry) tell(ctx context.Context, n int, version int64) {
	if r.news == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), newsTimeout)
	defer cancel()
	err := r.news.CAS(ctx, newsKey, func(in any) (any, bool, error) {
		all, _ := in.(versions)
		change, err := versions{}.with(all).Merge(versions{strconv.Itoa(n): version}, true)
		if err != nil || change == nil {
			return nil, false, err
		}
		out := versions{}.with(all)
		out[strconv.Itoa(n)] = version
		return out, true, nil
	})
	if err != nil {
		r.logger.Warn("others were not told of a change of the registry, they find it within minutes", "err", err)
	}
}

// listen follows what others tell, until ctx ends.
func (r *Registry) listen(ctx context.Context) {
	heard := versions{}
	for ctx.Err() == nil {
		r.news.WatchKey(ctx, newsKey, func(v any) bool {
			all, _ := v.(versions)
			for name, version := range all {
				n, err := strconv.Atoi(name)
				if err != nil || n < 0 || n >= shards || heard[name] >= version {
					continue
				}
				heard[name] = version
				if r.shards[n].Load().version < version {
					select {
					case r.wanted <- n:
					case <-ctx.Done():
						return false
					}
				}
			}
			return true
		})
		// It ends early only if the store does; perhaps it comes back.
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (v versions) with(o versions) versions {
	maps.Copy(v, o)
	return v
}

// Merge implements memberlist.Mergeable: the higher version is the newer.
func (v versions) Merge(other memberlist.Mergeable, _ bool) (memberlist.Mergeable, error) {
	o, ok := other.(versions)
	if !ok {
		return nil, fmt.Errorf("merge versions of the registry: got a %T", other)
	}
	change := versions{}
	for n, version := range o {
		if v[n] < version {
			v[n], change[n] = version, version
		}
	}
	if len(change) == 0 {
		return nil, nil //nolint:nilnil // memberlist wants it so
	}
	return change, nil
}

// MergeContent implements memberlist.Mergeable.
func (v versions) MergeContent() []string {
	names := make([]string, 0, len(v))
	for n := range v {
		names = append(names, n)
	}
	return names
}

// RemoveTombstones implements memberlist.Mergeable. There are none.
func (versions) RemoveTombstones(time.Time) (total, removed int) { return 0, 0 }

// Clone implements memberlist.Mergeable.
func (v versions) Clone() memberlist.Mergeable { return maps.Clone(v) }

// NewsCodec writes versions of the registry for the store, as JSON.
type NewsCodec struct{}

// CodecID implements codec.Codec.
func (NewsCodec) CodecID() string { return "hearth-tenants" }

// Encode implements codec.Codec.
func (NewsCodec) Encode(v any) ([]byte, error) { return json.Marshal(v) }

// Decode implements codec.Codec.
func (NewsCodec) Decode(data []byte) (any, error) {
	v := versions{}
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("decode versions of the registry: %w", err)
	}
	return v, nil
}
