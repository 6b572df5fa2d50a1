package distributor

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/grafana/dskit/kv/codec"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

var (
	_ codec.Codec          = HACodec{}
	_ memberlist.Mergeable = haState{}
)

// randomState has few values for everything, so that states agree and collide
// in every way.
func randomState(rnd *rand.Rand) haState {
	s := haState{}
	for range rnd.IntN(6) {
		k := haKey{tenant.ID(fmt.Sprint("t", rnd.IntN(2))), fmt.Sprint("c", rnd.IntN(2))}
		s[k] = haEntry{string(rune('a' + rnd.IntN(2))), rnd.Int64N(3), rnd.Int64N(4), rnd.Int64N(4)}
	}
	return s
}

// merged is what many arrive at who start with nothing, or with the first.
func merged(t *testing.T, states ...haState) haState {
	out := haState{}
	for _, s := range states {
		_, err := out.Merge(s.Clone(), rand.IntN(2) == 0)
		require.NoError(t, err)
	}
	return out
}

// The order in which news comes does not matter, nor how often, nor whether it
// comes alone or already merged; and what Merge says has changed is all that
// another needs to hear.
func TestHAStateConverges(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		a, b, c := randomState(rnd), randomState(rnd), randomState(rnd)
		want := merged(t, a, b, c)
		for _, order := range [][]haState{{a, c, b}, {b, a, c}, {b, c, a}, {c, a, b}, {c, b, a}, {a, b, c, a, b}, {merged(t, b, c), a}, {merged(t, b, a), merged(t, c, b)}} {
			require.Equal(t, want, merged(t, order...), "%v %v %v", a, b, c)
		}

		here, there := merged(t, a, b), merged(t, a, b)
		before := maps.Clone(here)
		change, err := here.Merge(c, false)
		require.NoError(t, err)
		if change == nil {
			require.Equal(t, before, here)
			continue
		}
		require.NotEmpty(t, change.MergeContent())
		_, err = there.Merge(change, false)
		require.NoError(t, err)
		require.Equal(t, here, there)
		change, err = here.Merge(c, true)
		require.NoError(t, err)
		require.Nil(t, change, "the second time is no news")
	}
}

func TestHAStateMergeRefusesOthers(t *testing.T) {
	t.Parallel()
	_, err := haState{}.Merge(nil, false)
	require.ErrorContains(t, err, "got a <nil>")
	_, err = HACodec{}.Encode("text")
	require.ErrorContains(t, err, "got a string")
}

func TestHAStateTombstones(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1000)
	s := haState{
		{"t", "live"}: {"a", 1, 100, 99}, {"t", "old"}: {"a", 1, 100, 999}, {"t", "new"}: {"a", 1, 100, 1000},
	}
	c := s.Clone()
	total, removed := s.RemoveTombstones(time.Time{})
	require.Equal(t, []int{2, 0}, []int{total, removed}, "nothing is hidden")
	total, removed = s.RemoveTombstones(at)
	require.Equal(t, []int{1, 1}, []int{total, removed})
	require.Len(t, s, 2)
	require.Len(t, c, 3, "a clone shares nothing")
	total, removed = s.RemoveTombstones(at.Add(time.Hour))
	require.Equal(t, []int{0, 1}, []int{total, removed})
	require.Contains(t, s, haKey{"t", "live"})
}

func TestHACodec(t *testing.T) {
	t.Parallel()
	s := haState{{"t", "c"}: {"a", 1_700_000_000_000, 1_700_000_000_001, 0}, {"u", "ü/x"}: {"b", -1, 1 << 62, 5}}
	for _, s := range []haState{s, {}} {
		b, err := HACodec{}.Encode(s)
		require.NoError(t, err)
		require.NotEmpty(t, b)
		got, err := HACodec{}.Decode(b)
		require.NoError(t, err)
		require.Equal(t, s, got)
	}
	b, err := HACodec{}.Encode(s)
	require.NoError(t, err)
	got, err := HACodec{}.Decode(append(b, 0x7a, 1, 'x', 0x80, 1, 5)) // fields of a later version
	require.NoError(t, err)
	require.Equal(t, s, got)
	for _, broken := range [][]byte{nil, {0}, b[:len(b)-1], {8, 2}, {8, 1, 18, 3, 10, 1, 't'}} {
		_, err := HACodec{}.Decode(broken)
		require.Error(t, err, "%x", broken)
	}
	require.Equal(t, "hearth-ha", HACodec{}.CodecID())
}

// Distributors of all versions find a pair under the same key.
func TestHAKeysNeverChange(t *testing.T) {
	t.Parallel()
	require.Equal(t, "ha/2e", haKeyName(haKey{"demo", "eu"}.shard()))
	require.Equal(t, "ha/00", haKeyName(0))
	require.Equal(t, "ha/3f", haKeyName(haKeys-1))
}

func FuzzHADecode(f *testing.F) {
	b, err := HACodec{}.Encode(haState{{"t", "c"}: {"a", 1, 2, 3}})
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := HACodec{}.Decode(b)
		if err != nil {
			return
		}
		b, err = HACodec{}.Encode(s)
		require.NoError(t, err)
		again, err := HACodec{}.Decode(b)
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}
