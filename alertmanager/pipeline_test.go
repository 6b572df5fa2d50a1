package alertmanager

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/marker"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/nflog/nflogpb"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

// A replica that looked at a group while an alert fired, and whose turn comes
// when another has told that it ended, tells nothing. Nor does one whose group was
// left with the alert as it was before it ended.
func TestTurnComesLate(t *testing.T) {
	t.Parallel()
	w, box := newWorld(t, 1), newMailbox(t)
	m := w.members[0]
	m.configure(box.config())
	m.fire("Fire")
	require.Equal(t, "firing Fire", box.next())
	in := m.get(team)
	groups, _, err := in.groups(t.Context(), func(*dispatch.Route) bool { return true }, func(*alert.Alert, time.Time) bool { return true })
	require.NoError(t, err)
	require.Len(t, groups, 1)
	seen := *groups[0].Alerts[0]
	require.False(t, seen.Resolved())
	looked := time.Now()
	m.resolve("Fire")
	require.Equal(t, "resolved Fire", box.next())
	to := &nflogpb.Receiver{GroupName: "mail", Integration: "email"}
	require.Eventually(t, func() bool { // what was sent is logged when the mailbox has it
		sent, err := in.log.Query(nflog.QGroupKey(groups[0].GroupKey), nflog.QReceiver(to))
		return err == nil && len(sent[0].FiringAlerts) == 0
	}, time.Minute, time.Millisecond)

	l, err := m.load(team, UserConfig{Config: box.config()})
	require.NoError(t, err)
	receivers, err := l.receivers(m.door, newRate(0), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx := notify.WithGroupKey(context.Background(), groups[0].GroupKey)
	ctx = notify.WithGroupLabels(ctx, model.LabelSet{"alertname": "Fire"})
	ctx = notify.WithReceiverName(ctx, "mail")
	ctx = notify.WithRepeatInterval(ctx, time.Hour)
	ctx = notify.WithRouteID(ctx, groups[0].RouteID)
	ctx = marker.WithContext(ctx, marker.NewAlertMarker())
	_, left, err := in.overtaken(to)(notify.WithNow(ctx, looked), slog.New(slog.DiscardHandler), &seen)
	require.NoError(t, err)
	require.Empty(t, left)
	pipeline := in.pipeline(receivers, in.inhibitor, timeinterval.NewIntervener(nil))
	_, _, err = pipeline.Exec(notify.WithNow(ctx, time.Now()), slog.New(slog.DiscardHandler), &seen)
	require.NoError(t, err)
	w.settle(box, m)
	require.Empty(t, box.in)
}
