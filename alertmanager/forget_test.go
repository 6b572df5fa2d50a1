package alertmanager

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// left is what the bucket has of a tenant.
func (w *world) left(id tenant.ID) (keys []string) {
	w.t.Helper()
	for o, err := range w.bucket.List(w.t.Context(), home.Folder(), true) {
		require.NoError(w.t, err)
		if contains([]byte(o.Key), string(id)) {
			keys = append(keys, string(o.Key))
		}
	}
	return keys
}

// Replicas that still have a tenant when it is removed write nothing of it again,
// neither from time to time nor when they stop.
func TestForgottenTenantStaysForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.members[0].configure(plain)
	w.members[0].fire("Fire")
	w.members[1].silence(t, "Silence")
	require.Eventually(t, func() bool { return w.silenced("Silence") == 3 }, 60*time.Second, 10*time.Millisecond)
	for _, m := range w.members {
		m.saveAll(t.Context())
	}
	require.Len(t, w.left(team), 3, "configuration, history and state")

	require.NoError(t, Forget(t.Context(), w.bucket, team))
	require.Empty(t, w.left(team))
	w.members[2].silence(t, "Later")
	for _, m := range w.members {
		m.get(team).news.change()
		m.saveAll(t.Context())
		require.Empty(t, w.left(team))
	}
	for _, m := range w.members {
		m.get(team).news.change()
		w.leave(m)
		require.Empty(t, w.left(team))
	}
}

// Nor do they where the two happen at once.
func TestForgottenWhileItIsSaved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	m := w.members[0]
	for range 20 {
		m.configure(plain)
		m.silence(t, "Silence")
		in := m.get(team)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				in.news.change()
				_ = in.save(t.Context()) // may lose against the others
			})
		}
		require.NoError(t, Forget(t.Context(), w.bucket, team))
		wg.Wait()
		require.Empty(t, w.left(team))
	}
}
