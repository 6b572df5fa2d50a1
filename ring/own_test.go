package ring

import (
	"maps"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOwns: each key has one owner, the work is divided about evenly, and what
// a member had when it stops is another's.
func TestOwns(t *testing.T) {
	t.Parallel()
	one := newProcess(t, "one", "").start(noFixed)
	require.False(t, one.ring.Owns("a"), "it is no member yet")
	one.join()
	two := newProcess(t, "two", "", one).start(noFixed)
	membership := two.join()
	both := map[string]string{"one": "ACTIVE", "two": "ACTIVE"}
	for _, p := range []*process{one, two} {
		p.await("both", func(have map[string]seen) bool { return maps.Equal(states(have), both) })
	}
	const keys = 1000
	ofOne := 0
	for i := range keys {
		key := strconv.Itoa(i)
		require.NotEqual(t, one.ring.Owns(key), two.ring.Owns(key), key)
		if one.ring.Owns(key) {
			ofOne++
		}
	}
	require.InDelta(t, keys/2, ofOne, keys/10)

	stop(t, membership)
	one.await("two to leave", func(have map[string]seen) bool { return have["two"].State == "LEAVING" })
	for i := range keys {
		require.True(t, one.ring.Owns(strconv.Itoa(i)))
	}
}
