package alertmanager

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// awake says on how many members the team is awake.
func (w *world) awake() (n int) {
	for _, m := range w.members {
		if m.get(team) != nil && !m.dead {
			n++
		}
	}
	return n
}

// A tenant is awake while it has alerts, or somebody has asked; what it knew is
// there again when it wakes, wherever that is.
func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		m := w.members[0]
		m.configure(plain)
		require.Zero(t, w.awake(), "nobody wants anything")
		m.silence(t, "Quiet")
		require.Equal(t, 3, w.silenced("Quiet"))
		time.Sleep(idleAfter + time.Minute) // the bubble's time
		require.Zero(t, w.awake())

		began = time.Now()
		m.fire("Quiet")
		time.Sleep(time.Minute)
		require.Equal(t, 3, w.awake())
		_, body := m.do(http.MethodGet, "/alertmanager/api/v2/alerts", "")
		require.Contains(t, body, `"state":"suppressed"`, "the silence is there again")
		time.Sleep(30 * time.Minute)
		require.Equal(t, 3, w.awake(), "an alert is held")
		m.resolve("Quiet")
		time.Sleep(time.Hour)
		require.Zero(t, w.awake())
		time.Sleep(time.Hour)
		require.Zero(t, w.awake(), "they do not wake each other")

		for i := range 3 { // others take over what sleeps
			w.join(string(rune('x'+i)), false)
			w.leave(w.members[i])
		}
		time.Sleep(time.Minute)
		require.Zero(t, w.awake())
		_, body = w.members[4].do(http.MethodGet, "/alertmanager/api/v2/silences", "")
		require.Contains(t, body, "Quiet")
		require.Equal(t, 1, w.awake(), "who is asked wakes alone")
	})
}

// A process that starts again has what fired when it stopped, also if nobody
// sends it again.
func TestAwakeAfterRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	m := w.members[0]
	m.configure(plain)
	m.fire("Fire")
	w.leave(m)
	next := w.join("next", true)
	require.Eventually(t, func() bool { return next.get(team) != nil }, 30*time.Second, 10*time.Millisecond)
	_, body := next.do(http.MethodGet, "/alertmanager/api/v2/alerts", "")
	require.Contains(t, body, "Fire")
}

// What two replicas that cannot reach each other save is not lost.
func TestBothSave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.members[0].configure(plain)
	all := w.inOrder()
	w.part(all[0], true)
	all[0].silence(t, "There")
	all[1].silence(t, "Here")
	for _, m := range all {
		w.leave(m)
	}
	m := w.join("new", false)
	var body string
	require.Eventually(t, func() (ok bool) {
		var code int
		code, body = m.do(http.MethodGet, "/alertmanager/api/v2/silences", "")
		return code == http.StatusOK
	}, 30*time.Second, 10*time.Millisecond)
	require.Contains(t, body, "There")
	require.Contains(t, body, "Here")
}
