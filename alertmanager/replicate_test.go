package alertmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/notifier"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// inOrder are the members as they send for the team.
func (w *world) inOrder() (all []*member) {
	for _, o := range w.members[0].place.owners(team) {
		for _, m := range w.members {
			if m.id == o.ID && !m.dead {
				all = append(all, m)
			}
		}
	}
	return all
}

func (m *member) silence(t testing.TB, name string) string {
	t.Helper()
	code, body := m.do(http.MethodPost, "/alertmanager/api/v2/silences", fmt.Sprintf(
		`{"matchers":[{"name":"alertname","value":%q,"isRegex":false,"isEqual":true}],"startsAt":%q,"endsAt":%q,"createdBy":"t","comment":"c"}`,
		name, time.Now().Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)))
	require.Equal(t, 200, code, body)
	return body
}

// silenced says how many members know of a silence of the name.
func (w *world) silenced(name string) (n int) {
	for _, m := range w.members {
		in := m.get(team)
		if in == nil || m.dead {
			continue
		}
		s, err := in.state()
		require.NoError(w.t, err)
		if len(s.Silences) > 0 && contains(s.Silences, name) {
			n++
		}
	}
	return n
}

// logged says how many members know that a notification was sent.
func (w *world) logged(name string) (n int) {
	for _, m := range w.members {
		if in := m.get(team); in != nil && !m.dead {
			s, err := in.state()
			require.NoError(w.t, err)
			if contains(s.Log, name) {
				n++
			}
		}
	}
	return n
}

func contains(b []byte, s string) bool {
	for i := 0; i+len(s) <= len(b); i++ {
		if string(b[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

// The first replica dies between the alert and its mail, or after it: one mail.
func TestKilled(t *testing.T) {
	t.Parallel()
	w, box := newWorld(t, 3), newMailbox(t)
	w.members[0].configure(box.config())
	all := w.inOrder()
	all[1].fire("Before")
	require.Equal(t, "firing Before", box.next())
	require.Eventually(t, func() bool { return w.logged("Before") == 3 }, 10*time.Second, 10*time.Millisecond)
	w.kill(all[0])
	all[0].get(team).close() // a process that is gone sends nothing
	all[1].fire("After")
	require.Equal(t, "firing After", box.next())
	all[2].resolve("Before")
	require.Equal(t, "resolved Before", box.next())
	w.settle(box, all[2])
	require.Empty(t, box.in)
}

// What is silenced stays so when members come, go and all restart, and nothing
// that fires is sent again or taken for resolved.
func TestRestartAndReshard(t *testing.T) {
	t.Parallel()
	w, box := newWorld(t, 3), newMailbox(t)
	w.members[0].configure(box.config())
	w.members[0].silence(t, "Quiet")
	require.Equal(t, 3, w.silenced("Quiet"), "who acknowledged a silence has told the others")
	w.members[0].fire("Fire")
	w.members[0].fire("Quiet")
	require.Equal(t, "firing Fire", box.next())
	w.ping(box, w.members[0])

	for i := range 3 { // each leaves, another takes its place
		m := w.join(fmt.Sprintf("new%d", i), false)
		w.leave(w.members[i])
		require.Eventually(t, func() bool { return m.get(team) != nil && w.silenced("Quiet") == 3 }, 20*time.Second, 20*time.Millisecond)
		m.fire("Quiet")
		w.ping(box, m)
	}
	for _, m := range w.members[3:] { // all leave, then others come
		w.leave(m)
	}
	for i := range 3 {
		w.join(fmt.Sprintf("newer%d", i), false)
	}
	require.Eventually(t, func() bool { return w.silenced("Quiet") == 3 }, 20*time.Second, 20*time.Millisecond)
	m := w.members[6]
	m.fire("Quiet")
	m.fire("Fire")
	w.settle(box, m)
	require.Empty(t, box.in, "neither a second notification nor a false resolve")
	m.resolve("Fire")
	require.Equal(t, "resolved Fire", box.next())
}

// A network that is cut: at least one mail. Healed: silences of both sides are
// on all, and the next alert is one mail.
func TestNetworkCut(t *testing.T) {
	t.Parallel()
	w, box := newWorld(t, 3), newMailbox(t)
	w.members[0].configure(box.config())
	all := w.inOrder()
	w.part(all[0], true)
	all[1].silence(t, "Here") // asks the first, then the second
	all[0].silence(t, "There")
	require.Equal(t, 2, w.silenced("Here"))
	require.Equal(t, 1, w.silenced("There"))
	all[2].fire("Cut")
	require.Equal(t, "firing Cut", box.next())
	w.part(all[0], false)
	require.Eventually(t, func() bool { return w.silenced("Here") == 3 && w.silenced("There") == 3 }, 20*time.Second, 20*time.Millisecond)
	all[1].fire("Healed")
	for s := box.next(); s != "firing Healed"; s = box.next() {
		require.Equal(t, "firing Cut", s)
	}
	w.settle(box, all[0])
	require.Empty(t, box.in)
}

// What is inhibited stays so on a replica that has just come.
func TestInhibitedAfterMove(t *testing.T) {
	t.Parallel()
	w, box := newWorld(t, 3), newMailbox(t)
	w.members[0].configure(box.config() + "inhibit_rules:\n- source_matchers: [alertname=Source]\n  target_matchers: [alertname=Target]\n")
	w.members[0].fire("Source")
	require.Equal(t, "firing Source", box.next())
	w.members[0].fire("Target")
	for i := range 3 {
		m := w.join(fmt.Sprintf("new%d", i), false)
		w.leave(w.members[i])
		require.Eventually(t, func() bool { return m.get(team) != nil }, 20*time.Second, 20*time.Millisecond)
		m.fire("Target")
		w.ping(box, m)
	}
	require.Empty(t, box.in)
}

// gated is a bucket in which reading a key waits, once.
type gated struct {
	bucket.Bucket
	key     bucket.Key
	once    sync.Once
	reached chan struct{}
	open    chan struct{}
}

func (g *gated) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	if key == g.key {
		g.once.Do(func() {
			close(g.reached)
			<-g.open
		})
	}
	return g.Bucket.Get(ctx, key)
}

// What another sent while a replica opened, and could not tell it, is not sent
// again by the replica.
func TestSentWhileOpening(t *testing.T) {
	t.Parallel()
	w, box := newWorld(t, 2), newMailbox(t)
	w.members[0].configure(box.config())
	w.ping(box, w.members[0])
	id := "c"
	for ; score(team, id) < max(score(team, "a"), score(team, "b")); id += "c" {
	}
	config := &gated{Bucket: w.bucket, key: configKey(team), reached: make(chan struct{}), open: make(chan struct{})}
	state := &gated{Bucket: config, key: stateKey(team), reached: make(chan struct{}), open: make(chan struct{})}
	w.bucket = state
	first := w.join(id, false)

	<-config.reached // it is known to the others, and has asked nobody yet
	in := w.inOrder()[1].get(team)
	fired, err := json.Marshal([]*notifier.Alert{newAlert("Late", time.Now().Add(time.Hour))})
	require.NoError(t, err)
	_, err = in.take(t.Context(), fired, time.Now())
	require.NoError(t, err)
	close(config.open)
	<-state.reached // it has asked the others
	require.Equal(t, "firing Late", box.next())
	in.news.told(t.Context())
	close(state.open)
	require.Eventually(t, func() bool { return first.get(team) != nil }, time.Minute, time.Millisecond)
	w.settle(box, first)
	require.Empty(t, box.in)
}
