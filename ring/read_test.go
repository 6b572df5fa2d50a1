package ring

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dsring "github.com/grafana/dskit/ring"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// read asks for all items; those that are down fail, those that are stuck answer
// when nobody wants to know any more.
func (s *stores) read(r *Ring, id tenant.ID, down map[string]bool) (items map[int]bool, asked []string, err error) {
	var mu sync.Mutex
	var all []string // one that is slow is still to be asked when it is answered
	answers, err := Read(context.Background(), r, id, func(ctx context.Context, from Member) (map[int]bool, error) {
		mu.Lock()
		all = append(all, from.ID)
		mu.Unlock()
		s.mu.Lock()
		stuck, have := s.stuck[from.ID], maps.Clone(s.holds[from.ID])
		s.mu.Unlock()
		if stuck {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if down[from.ID] {
			return nil, errDown
		}
		return have, nil
	}, func(map[int]bool) {})
	items = map[int]bool{}
	for _, a := range answers {
		maps.Copy(items, a)
	}
	mu.Lock()
	defer mu.Unlock()
	return items, slices.Clone(all), err
}

// but is the same members, of which one is stuck.
func (s *stores) but(stuck string) *stores {
	return &stores{holds: s.holds, stuck: map[string]bool{stuck: true}}
}

// What was acknowledged is read, whichever members failed at the write and
// whichever zone or member fails now.
func TestReadSeesWhatAQuorumHas(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"", "a"} {
		t.Run("zone "+zone, func(t *testing.T) {
			t.Parallel()
			p := newProcess(t, "observer", zone).start(func(tenant.ID) int { return 6 })
			p.put(nil, six...)
			p.grow("t", 6)
			ids := []string{"a1", "a2", "b1", "b2", "c1", "c2"}
			acked := 0
			for range 300 {
				s, tokens := newStores(), randomTokens(20)
				for _, id := range ids {
					if rand.IntN(5) == 0 {
						s.fails[id] = errDown
					}
				}
				if s.write(p.ring, "t", tokens) != nil {
					continue
				}
				acked++
				down := map[string]bool{ids[rand.IntN(6)]: true}
				if zone != "" {
					z := rand.IntN(3)
					down = map[string]bool{ids[2*z]: true, ids[2*z+1]: true}
				}
				have, _, err := s.read(p.ring, "t", down)
				require.NoError(t, err, "%v", down)
				for n := range tokens {
					require.True(t, have[n], "item %d: at the write %v, at the read %v", n, s.fails, down)
				}
			}
			require.Greater(t, acked, 30)
		})
	}
}

func TestReadAsksFewAndMoreIfNeeded(t *testing.T) {
	t.Parallel()
	p := alone(t, "a")
	p.put(nil, three...)
	s := newStores()
	require.NoError(t, s.write(p.ring, "t", randomTokens(5)))
	for range 10 {
		_, asked, err := s.read(p.ring, "t", nil)
		require.NoError(t, err)
		require.Len(t, asked, 2, "all replicas but one are enough")
	}
	for _, bad := range []string{"one", "two", "three"} {
		_, _, err := s.read(p.ring, "t", map[string]bool{bad: true})
		require.NoError(t, err)
		_, _, err = s.but(bad).read(p.ring, "t", nil)
		require.NoError(t, err, "another is asked when %s is slow", bad)
	}
	_, _, err := s.read(p.ring, "t", map[string]bool{"one": true, "two": true})
	requireTooFew(t, err)
}

func TestReadAsksAgainForAMoment(t *testing.T) {
	t.Parallel()
	p := alone(t, "")
	p.put(nil, three...)
	var asked atomic.Int32
	_, err := Read(context.Background(), p.ring, "t", func(context.Context, Member) (int, error) {
		if asked.Add(1) <= 3 {
			return 0, errDown
		}
		return 1, nil
	}, func(int) {})
	require.NoError(t, err)

	fault := wire.Errorf(wire.Invalid, "err-of-the-sender", "no")
	asked.Store(0)
	_, err = Read(context.Background(), p.ring, "t", func(context.Context, Member) (int, error) {
		asked.Add(1)
		return 0, fault
	}, func(int) {})
	require.ErrorIs(t, err, fault)
	require.LessOrEqual(t, asked.Load(), int32(3), "what is the sender's fault is not tried again")
}

// One that is read-only is read from.
func TestReadAsksThoseThatTakeNoWrites(t *testing.T) {
	t.Parallel()
	p := alone(t, "")
	p.put(nil, three...)
	s := newStores()
	require.NoError(t, s.write(p.ring, "t", randomTokens(5)))
	p.put(func(m *dsring.InstanceDesc) {
		m.ReadOnly, m.ReadOnlyUpdatedTimestamp, m.Timestamp = true, time.Now().Unix(), time.Now().Unix()+1
	}, "one")
	p.await("one that is read-only", func(have map[string]seen) bool { return have["one"].ReadOnly })
	have, asked, err := s.read(p.ring, "t", map[string]bool{"two": true})
	require.NoError(t, err)
	require.Contains(t, asked, "one")
	require.Len(t, have, 5)
}
