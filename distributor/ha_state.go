package distributor

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/grafana/dskit/kv/memberlist"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hearth-metrics/hearth/tenant"
)

// haKey names a pair: what has one value of the cluster label.
type haKey struct {
	tenant  tenant.ID
	cluster string
}

// haEntry is what distributors tell each other of a pair. Its times are in
// milliseconds; they are read from the clock of whoever writes them, but made
// to be later than what they replace. So they order events even if clocks
// disagree, and nobody compares them with a clock of his own.
type haEntry struct {
	replica    string // the elected one
	electedAt  int64
	receivedAt int64 // a sample of the elected replica came
	deletedAt  int64 // 0, or the pair had not been seen for long
}

// deleted says that the pair is forgotten, until it sends again.
func (e haEntry) deleted() bool { return e.deletedAt >= e.receivedAt }

// join is the later election, and of one election all that is known. Of two
// elections at the same time it is that of the name that sorts first. It is
// commutative, associative and idempotent, so that everybody arrives at the
// same, in whatever order the news comes.
func (e haEntry) join(o haEntry) haEntry {
	switch {
	case e.electedAt > o.electedAt:
		return e
	case e.electedAt < o.electedAt:
		return o
	case e.replica < o.replica:
		return e
	case e.replica > o.replica:
		return o
	}
	e.receivedAt, e.deletedAt = max(e.receivedAt, o.receivedAt), max(e.deletedAt, o.deletedAt)
	return e
}

// haState is the value of one key of the shared store: the pairs that fall to
// the key. The gossip keeps a goroutine, a queue of some 80 KiB and metrics for
// each key, and loses notifications when very many keys change at once; so
// there is a fixed number of keys, not one for each tenant. What is gossiped is
// only what has changed.
type haState map[haKey]haEntry

// Merge implements memberlist.Mergeable. A pair that other lacks is none the
// less there: only time deletes.
func (s haState) Merge(other memberlist.Mergeable, _ bool) (memberlist.Mergeable, error) {
	o, ok := other.(haState)
	if !ok {
		return nil, fmt.Errorf("merge the state of HA pairs: got a %T", other)
	}
	change := haState{}
	for k, e := range o {
		have, known := s[k]
		if known {
			e = have.join(e)
		}
		if !known || e != have {
			s[k], change[k] = e, e
		}
	}
	if len(change) == 0 {
		return nil, nil //nolint:nilnil // memberlist wants it so
	}
	return change, nil
}

// MergeContent implements memberlist.Mergeable: newer news of a pair makes
// older superfluous.
func (s haState) MergeContent() []string {
	names := make([]string, 0, len(s))
	for k := range s {
		names = append(names, string(k.tenant)+"/"+k.cluster)
	}
	return names
}

// RemoveTombstones implements memberlist.Mergeable. Limit zero, which is before
// everything, asks to hide deleted pairs from whoever reads the store. We do
// not, for an election has to be later than the deletion that it follows.
func (s haState) RemoveTombstones(limit time.Time) (total, removed int) {
	for k, e := range s {
		switch {
		case !e.deleted():
		case e.deletedAt < limit.UnixMilli():
			delete(s, k)
			removed++
		default:
			total++
		}
	}
	return total, removed
}

// Clone implements memberlist.Mergeable.
func (s haState) Clone() memberlist.Mergeable { return maps.Clone(s) }

// HACodec writes the shared state of HA pairs, for the stores of dskit.
//
//	message State {
//	  uint32 format = 1; // of this message: 1
//	  repeated Pair pairs = 2;
//	}
//	message Pair {
//	  string tenant = 1; string cluster = 2; string replica = 3;
//	  int64 elected_at = 4; int64 received_at = 5; int64 deleted_at = 6; // ms
//	}
type HACodec struct{}

const haFormat = 1

// CodecID implements codec.Codec.
func (HACodec) CodecID() string { return "hearth-ha" }

// Encode implements codec.Codec. Even an empty state has bytes: the gossip
// cannot send none.
func (HACodec) Encode(v any) ([]byte, error) {
	s, ok := v.(haState)
	if !ok {
		return nil, fmt.Errorf("encode the state of HA pairs: got a %T", v)
	}
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), haFormat)
	var pair []byte
	for k, e := range s {
		pair = pair[:0]
		for i, text := range []string{string(k.tenant), k.cluster, e.replica} {
			pair = protowire.AppendTag(pair, protowire.Number(1+i), protowire.BytesType)
			pair = protowire.AppendString(pair, text)
		}
		for i, ms := range []int64{e.electedAt, e.receivedAt, e.deletedAt} {
			pair = protowire.AppendTag(pair, protowire.Number(4+i), protowire.VarintType)
			pair = protowire.AppendVarint(pair, uint64(ms))
		}
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, pair)
	}
	return b, nil
}

// Decode implements codec.Codec.
func (HACodec) Decode(b []byte) (any, error) {
	s, format := haState{}, uint64(0)
	err := eachField(b, func(num protowire.Number, n uint64, bytes []byte) error {
		switch num {
		case 1:
			format = n
		case 2:
			return s.decodePair(bytes)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("decode the state of HA pairs: %w", err)
	case format != haFormat:
		return nil, fmt.Errorf("decode the state of HA pairs: its format is %d, want %d", format, haFormat)
	}
	return s, nil
}

func (s haState) decodePair(b []byte) error {
	var k haKey
	var e haEntry
	err := eachField(b, func(num protowire.Number, n uint64, bytes []byte) error {
		switch num {
		case 1:
			k.tenant = tenant.ID(bytes)
		case 2:
			k.cluster = string(bytes)
		case 3:
			e.replica = string(bytes)
		case 4:
			e.electedAt = int64(n)
		case 5:
			e.receivedAt = int64(n)
		case 6:
			e.deletedAt = int64(n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if k.tenant == "" || k.cluster == "" || e.replica == "" {
		return errors.New("a pair lacks its tenant, cluster or replica")
	}
	if have, ok := s[k]; ok {
		e = have.join(e)
	}
	s[k] = e
	return nil
}

// eachField calls f with each field of a message: a number, or bytes. Fields of
// other types are stepped over.
func eachField(b []byte, f func(num protowire.Number, n uint64, bytes []byte) error) error {
	for len(b) > 0 {
		num, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var n uint64
		var bytes []byte
		switch typ {
		case protowire.VarintType:
			n, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			bytes, size = protowire.ConsumeBytes(b)
		default:
			num, size = 0, protowire.ConsumeFieldValue(num, typ, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := f(num, n, bytes); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}
