package ring

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	dsring "github.com/grafana/dskit/ring"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// stores is what members hold, and how they are.
type stores struct {
	mu    sync.Mutex
	holds map[string]map[int]bool // member to items
	sent  map[string]int
	fails map[string]error
	stuck map[string]bool // answers when its context ends
}

func newStores() *stores {
	return &stores{holds: map[string]map[int]bool{}, sent: map[string]int{}, fails: map[string]error{}, stuck: map[string]bool{}}
}

// write sends as many items as there are tokens.
func (s *stores) write(r *Ring, id tenant.ID, tokens []uint32) error {
	return r.Write(context.Background(), id, patience, func() []uint32 { return tokens }, func(to Member, items []int) func(context.Context) error {
		if items == nil {
			items = make([]int, len(tokens))
			for n := range items {
				items[n] = n
			}
		} else {
			items = slices.Clone(items)
		}
		return func(ctx context.Context) error {
			s.mu.Lock()
			s.sent[to.ID]++
			err, stuck := s.fails[to.ID], s.stuck[to.ID]
			s.mu.Unlock()
			if stuck {
				<-ctx.Done()
				return ctx.Err()
			}
			if err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.holds[to.ID] == nil {
				s.holds[to.ID] = map[int]bool{}
			}
			for _, n := range items {
				s.holds[to.ID][n] = true
			}
			return nil
		}
	})
}

func (s *stores) holders(item int) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, items := range s.holds {
		if items[item] {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func randomTokens(n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = rand.Uint32()
	}
	return out
}

var (
	three   = []string{"one@a", "two@b", "three@c"}
	six     = []string{"a1@a", "a2@a", "b1@b", "b2@b", "c1@c", "c2@c"}
	errDown = errors.New("connection refused")
)

func requireTooFew(t *testing.T, err error) {
	t.Helper()
	var ue *wire.UserError
	require.ErrorAs(t, err, &ue)
	require.Equal(t, "err-too-few-replicas", ue.ID)
	require.Equal(t, wire.Unavailable, ue.Kind)
	require.Positive(t, ue.RetryAfter)
}

func TestWriteNeedsAQuorum(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"", "a"} {
		t.Run("zone "+zone, func(t *testing.T) {
			t.Parallel()
			p := alone(t, zone)
			p.put(nil, three...)
			s := newStores()
			require.NoError(t, s.write(p.ring, "t", randomTokens(10)))
			require.Eventually(t, func() bool { return len(s.holders(9)) == 3 }, patience, time.Millisecond, "everyone gets everything in the end")

			s = newStores()
			s.fails["one"] = errDown
			require.NoError(t, s.write(p.ring, "t", randomTokens(10)))

			s = newStores()
			s.fails["one"], s.fails["two"] = errDown, errDown
			requireTooFew(t, s.write(p.ring, "t", randomTokens(10)))

			s = newStores()
			fault := wire.Errorf(wire.Invalid, "err-of-the-sender", "no")
			s.fails["one"], s.fails["two"] = fault, fault
			err := s.write(p.ring, "t", randomTokens(10))
			var ue *wire.UserError
			require.ErrorAs(t, err, &ue)
			require.Equal(t, "err-of-the-sender", ue.ID)
		})
	}
}

// Nobody waits for a member that hangs, and it is not given up before its time.
func TestWriteDoesNotWaitForASlowMember(t *testing.T) {
	t.Parallel()
	p := alone(t, "")
	p.put(nil, three...)
	answered, ended := make(chan struct{}), make(chan error, 1)
	err := p.ring.Write(context.Background(), "t", time.Hour, nil, func(to Member, _ []int) func(context.Context) error {
		return func(ctx context.Context) error {
			if to.ID == "two" {
				<-answered
				ended <- ctx.Err()
			}
			return nil
		}
	})
	close(answered)
	require.NoError(t, err)
	require.NoError(t, <-ended, "it is still under way")
}

// What a client cancels is not awaited.
func TestWriteEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := alone(t, "")
	p.put(nil, three...)
	ctx, cancel := context.WithCancel(context.Background())
	err := p.ring.Write(ctx, "t", 100*time.Millisecond, nil, func(Member, []int) func(context.Context) error {
		return func(ctx context.Context) error {
			cancel()
			<-ctx.Done() // of its own, which ends by patience
			return ctx.Err()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
}

// Each item is on three members, in three zones where there are zones; and a
// write succeeds exactly if each item has reached two of its three.
func TestWritePlacesEachItem(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"", "a"} {
		t.Run("zone "+zone, func(t *testing.T) {
			t.Parallel()
			p := newProcess(t, "observer", zone).start(func(tenant.ID) int { return 6 })
			p.put(nil, six...)
			p.grow("t", 6)
			tokens := randomTokens(50)
			all := newStores()
			require.NoError(t, all.write(p.ring, "t", tokens))
			require.Eventually(t, func() bool { return everyItem(all, tokens, func(at []string) bool { return len(at) == 3 }) }, patience, time.Millisecond)
			if zone != "" {
				require.True(t, everyItem(all, tokens, func(at []string) bool {
					return at[0][0] != at[1][0] && at[1][0] != at[2][0] && at[0][0] != at[2][0]
				}), "each item in three zones")
			}
			for range 100 {
				s := newStores()
				for _, id := range []string{"a1", "a2", "b1", "b2", "c1", "c2"} {
					if rand.IntN(4) == 0 {
						s.fails[id] = errDown
					}
				}
				want := everyItem(all, tokens, func(at []string) bool {
					failed := 0
					for _, id := range at {
						if s.fails[id] != nil {
							failed++
						}
					}
					return failed < 2
				})
				err := s.write(p.ring, "t", tokens)
				require.Equal(t, want, err == nil, "%v: %v", s.fails, err)
				if err != nil {
					requireTooFew(t, err)
				}
			}
		})
	}
}

func everyItem(s *stores, tokens []uint32, good func(at []string) bool) bool {
	for n := range tokens {
		if !good(s.holders(n)) {
			return false
		}
	}
	return true
}

// A small tenant's items go to three members, whoever they are.
func TestWriteStaysInTheShard(t *testing.T) {
	t.Parallel()
	p := alone(t, "a")
	p.put(nil, six...)
	homes := map[string]bool{}
	for n := range 20 {
		s := newStores()
		require.NoError(t, s.write(p.ring, tenant.ID(fmt.Sprint("t", n)), randomTokens(100)))
		require.Eventually(t, func() bool { return len(s.holders(0)) == 3 && len(s.holders(99)) == 3 }, patience, time.Millisecond)
		require.Equal(t, s.holders(0), s.holders(99))
		homes[fmt.Sprint(s.holders(0))] = true
	}
	require.Greater(t, len(homes), 1, "tenants are spread")
}

func TestWriteLeavesOutWhoCannotTakeIt(t *testing.T) {
	t.Parallel()
	p := alone(t, "")
	p.put(nil, "one", "two", "three", "four")
	p.put(func(m *dsring.InstanceDesc) {
		m.ReadOnly, m.ReadOnlyUpdatedTimestamp, m.Timestamp = true, time.Now().Unix(), time.Now().Unix()+1
	}, "four")
	p.await("one that is read-only", func(have map[string]seen) bool { return have["four"].ReadOnly })
	s := newStores()
	for range 20 {
		require.NoError(t, s.write(p.ring, "t", randomTokens(20)))
	}
	s.mu.Lock()
	require.Zero(t, s.sent["four"])
	s.mu.Unlock()

	q := alone(t, "")
	q.put(nil, "three")
	q.put(silent, "one", "two")
	requireTooFew(t, newStores().write(q.ring, "t", randomTokens(5)))
}

// Members that stop are written to: they may be back before anyone knows.
func TestWriteGoesToThoseThatStop(t *testing.T) {
	t.Parallel()
	p := alone(t, "")
	p.put(nil, three...)
	p.put(func(m *dsring.InstanceDesc) { m.State, m.Timestamp = dsring.LEAVING, time.Now().Unix()+1 }, "one", "two")
	p.await("two that leave", func(have map[string]seen) bool {
		return have["one"].State == "LEAVING" && have["two"].State == "LEAVING"
	})
	require.NoError(t, newStores().write(p.ring, "t", randomTokens(5)))
}
