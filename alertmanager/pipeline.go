package alertmanager

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/nflog/nflogpb"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/timeinterval"
)

// pipeline is what a group of alerts goes through: wait for the replicas before
// this one, leave out what is muted, then for each integration leave out what
// was sent, send, and say so. It is upstream's, but for afterJoining, current and
// overtaken, and that what was muted while it waited is left out, too.
func (in *instance) pipeline(receivers map[string][]notify.Integration, inhibitor *inhibit.Inhibitor, intervals *timeinterval.Intervener) notify.RoutingStage {
	m := in.parent.notified
	all := make(notify.RoutingStage, len(receivers))
	for name, integrations := range receivers {
		send := make(notify.FanoutStage, len(integrations))
		for i := range integrations {
			to := &nflogpb.Receiver{GroupName: name, Integration: integrations[i].Name(), Idx: uint32(integrations[i].Index())}
			send[i] = notify.MultiStage{
				in.overtaken(to),
				notify.NewDedupStage(&integrations[i], in.log, to),
				notify.NewRetryStage(integrations[i], name, m, eventrecorder.Recorder{}),
				notify.NewSetNotifiesStage(in.log, to),
			}
		}
		all[name] = notify.MultiStage{
			notify.StageFunc(in.afterJoining),
			notify.StageFunc(in.current),
			notify.NewClusterWaitStage(in.wait),
			notify.NewMuteStage(inhibitor, m),
			notify.NewTimeActiveStage(intervals, in.muted, m),
			notify.NewTimeMuteStage(intervals, in.muted, m),
			notify.NewMuteStage(in.silencer, m),
			underWay{in, send},
		}
	}
	return all
}

// underWay is the part of a turn in which something is sent and logged.
type underWay struct {
	in   *instance
	send notify.Stage
}

// Exec implements notify.Stage.
func (u underWay) Exec(ctx context.Context, l *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
	if err := u.in.sending.Acquire(ctx, 1); err != nil {
		return ctx, nil, err
	}
	defer u.in.sending.Release(1)
	return u.send.Exec(ctx, l, alerts...)
}

// settle waits for what is under way: what a receiver has taken is in the log
// then, for those who come after.
func (in *instance) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := in.sending.Acquire(ctx, everything); err != nil {
		in.logger.Warn("a receiver is slow, what it was sent last may be sent again")
		return
	}
	in.sending.Release(everything)
}

// afterJoining waits until this replica knows what the others have sent.
func (in *instance) afterJoining(ctx context.Context, _ *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
	select {
	case <-in.joined:
		return ctx, alerts, nil
	case <-ctx.Done():
		return ctx, nil, ctx.Err()
	}
}

// current replaces alerts that the group has in an older version. Upstream's
// dispatcher sorts alerts into groups with several goroutines, so of an alert that
// changes twice at once the group may be left with the first change, for as long
// as no third comes. The group is given the newer version, too.
func (in *instance) current(ctx context.Context, _ *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
	in.taking.Lock()
	defer in.taking.Unlock()
	now := time.Now()
	for k, seen := range alerts {
		is, err := in.alerts.Get(seen.Fingerprint())
		if err != nil || !seen.UpdatedAt.Before(is.UpdatedAt) {
			continue
		}
		a := *is
		if !a.ResolvedAt(now) { // as for the group: none ends on its way
			a.EndsAt = time.Time{}
		}
		alerts[k] = &a
		if err := in.alerts.Put(ctx, is); err != nil {
			return ctx, nil, err
		}
	}
	return ctx, alerts, nil
}

// overtaken ends a turn that comes too late: since this replica looked at the
// group, an alert has ended or begun, and another replica has sent something.
// To the log, what this one saw would look like news. Replicas look at a group
// at different times, most of all when one has just come. What the other did
// not send is sent when this one looks again.
func (in *instance) overtaken(to *nflogpb.Receiver) notify.StageFunc {
	return func(ctx context.Context, _ *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
		key, _ := notify.GroupKey(ctx) // where it is missing, the next stage says so
		looked, _ := notify.Now(ctx)
		sent, err := in.log.Query(nflog.QGroupKey(key), nflog.QReceiver(to))
		if err == nil && len(sent) > 0 && sent[0].Timestamp.AsTime().After(looked) && in.outdated(alerts) {
			return ctx, nil, nil
		}
		return ctx, alerts, nil
	}
}

// outdated says whether one of the alerts is not any more as it was seen.
func (in *instance) outdated(alerts []*alert.Alert) bool {
	now := time.Now()
	for _, seen := range alerts {
		is, err := in.alerts.Get(seen.Fingerprint())
		if err == nil && is.ResolvedAt(now) != seen.ResolvedAt(now) {
			return true
		}
	}
	return false
}
