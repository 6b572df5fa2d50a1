package ring

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dsring "github.com/grafana/dskit/ring"
	"github.com/stretchr/testify/require"
)

// join makes a process a member.
func (p *process) join() *Membership {
	p.t.Helper()
	m, err := p.ring.Join()
	require.NoError(p.t, err)
	run(p.t, m)
	return m
}

func (p *process) tokens() string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "ring", role+"-tokens.json"))
	require.NoError(p.t, err)
	return string(text)
}

func TestMembersComeAndGo(t *testing.T) {
	t.Parallel()
	one := newProcess(t, "one", "").start(noFixed)
	one.join()
	two := newProcess(t, "two", "", one).start(noFixed)
	membership := two.join()
	both := map[string]string{"one": "ACTIVE", "two": "ACTIVE"}
	for _, p := range []*process{one, two} {
		p.await("both", func(have map[string]seen) bool { return maps.Equal(states(have), both) })
		require.Equal(t, 2, p.ring.Healthy())
	}

	// It takes no writes for a while, and everyone hears of it.
	require.NoError(t, membership.SetReadOnly(t.Context(), true))
	require.True(t, membership.ReadOnly())
	one.await("two to be read-only", func(have map[string]seen) bool { return have["two"].ReadOnly })
	require.NoError(t, membership.SetReadOnly(t.Context(), false))
	one.await("two to take writes", func(have map[string]seen) bool { return !have["two"].ReadOnly })

	// It stops, is still known, and has its tokens when it is back.
	tokens := two.tokens()
	stop(t, membership)
	one.await("two to leave", func(have map[string]seen) bool { return have["two"].State == "LEAVING" })
	stop(t, two.shards)
	stop(t, two.ring)
	stop(t, two.Cluster)
	two.start(noFixed)
	membership = two.join()
	one.await("two to be back", func(have map[string]seen) bool { return maps.Equal(states(have), both) })
	require.JSONEq(t, tokens, two.tokens())

	// It leaves for good.
	membership.Leave(true)
	stop(t, membership)
	one.await("two to be gone", func(have map[string]seen) bool { return maps.Equal(states(have), map[string]string{"one": "ACTIVE"}) })
	require.Equal(t, 1, one.ring.Healthy())
}

// longSilent is a member that was not heard of for longer than anyone waits.
func longSilent(m *dsring.InstanceDesc) { m.Timestamp = time.Now().Add(-time.Hour).Unix() }

func TestMembersThatAreGoneAreForgotten(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "one", "").start(noFixed)
	p.put(nil, "two", "three")
	p.put(longSilent, "gone")
	p.join()
	p.await("the one that is gone to be forgotten", func(have map[string]seen) bool {
		_, there := have["gone"]
		return !there && len(have) == 3
	})
}

// To a process whose clock is wrong, everyone else is silent.
func TestTheMajorityIsNotForgotten(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "one", "").start(noFixed)
	p.put(longSilent, "two", "three")
	p.join()
	require.Eventually(t, func() bool { return p.log.has("is this machine's clock right?") }, patience, 10*time.Millisecond)
	require.Len(t, p.seen(), 3)
}

// One whose clock is far ahead neither hides nor ousts anyone.
func TestAMemberWithAWrongClock(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "one", "").start(noFixed)
	p.join()
	p.put(nil, "two")
	p.put(func(m *dsring.InstanceDesc) { m.Timestamp = time.Now().Add(2 * time.Hour).Unix() }, "ahead")
	require.NoError(t, newStores().write(p.ring, "t", randomTokens(5)))
	require.Equal(t, map[string]string{"one": "ACTIVE", "two": "ACTIVE", "ahead": "ACTIVE"}, states(p.seen()))
}

func TestAnOperatorForgetsOne(t *testing.T) {
	t.Parallel()
	p := alone(t, "")
	p.put(nil, three...)
	req := httptest.NewRequest(http.MethodPost, "/ring", strings.NewReader(url.Values{"forget": {"two"}}.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	p.ring.ServeHTTP(w, req)
	require.Less(t, w.Code, 400, "%s", w.Body)
	p.await("two to be forgotten", func(have map[string]seen) bool {
		_, there := have["two"]
		return !there && len(have) == 2
	})
}
