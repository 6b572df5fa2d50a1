package ring

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	dsring "github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
)

// Membership is this process's place in a ring. It is a service: once it runs
// others send work, and when it stops they are told before it ends.
type Membership struct {
	services.Service

	lifecycler *dsring.BasicLifecycler
}

// Join makes this process a member of the ring when the service starts. It
// keeps its tokens over a restart, stays known as leaving while it is away,
// and is forgotten by the others when it does not come back.
func (r *Ring) Join() (*Membership, error) {
	if err := os.MkdirAll(r.cluster.dir, 0o777); err != nil {
		return nil, err
	}
	store, err := r.cluster.Store(r.role+"-lifecycler", dsring.GetCodec())
	if err != nil {
		return nil, err
	}
	inst, logger := r.cluster.members.Instance, kitLogger{r.logger}
	var delegate dsring.BasicLifecyclerDelegate = dsring.NewInstanceRegisterDelegate(dsring.ACTIVE, tokensPerMember)
	delegate = dsring.NewTokensPersistencyDelegate(filepath.Join(r.cluster.dir, r.role+"-tokens.json"), dsring.ACTIVE, delegate, logger)
	delegate = dsring.NewLeaveOnStoppingDelegate(delegate, logger)
	delegate = forgetFew{delegate, dsring.NewAutoForgetDelegate(forgetAfter, delegate, logger), r.logger}
	l, err := dsring.NewBasicLifecycler(dsring.BasicLifecyclerConfig{
		ID: inst.ID, Addr: inst.AdvertiseAddress, Zone: inst.Zone,
		HeartbeatPeriod:                 heartbeatPeriod,
		HeartbeatTimeout:                heartbeatTimeout,
		NumTokens:                       tokensPerMember,
		KeepInstanceInTheRingOnShutdown: true,
	}, r.role, r.role, store, delegate, logger, prometheus.WrapRegistererWithPrefix("hearth_", r.cluster.reg))
	if err != nil {
		return nil, fmt.Errorf("join the ring of %s: %w", r.role, err)
	}
	return &Membership{Service: l, lifecycler: l}, nil
}

// forgetFew forgets members that have not been heard of for long, but only
// where these are less than half of all. Where most seem to be gone it is more
// likely that this process's clock is wrong, and it would forget them for all.
type forgetFew struct {
	dsring.BasicLifecyclerDelegate

	forget dsring.BasicLifecyclerDelegate
	logger *slog.Logger
}

// OnRingInstanceHeartbeat implements dsring.BasicLifecyclerDelegate.
func (f forgetFew) OnRingInstanceHeartbeat(l *dsring.BasicLifecycler, all *dsring.Desc, self *dsring.InstanceDesc) {
	gone := 0
	for _, m := range all.Ingesters {
		if !m.IsHeartbeatHealthy(forgetAfter, time.Now()) {
			gone++
		}
	}
	if gone > 0 && 2*gone >= len(all.Ingesters) {
		f.logger.Warn("half of the members or more were not heard of for long: is this machine's clock right? none is forgotten", "silent", gone, "members", len(all.Ingesters))
		f.BasicLifecyclerDelegate.OnRingInstanceHeartbeat(l, all, self)
		return
	}
	f.forget.OnRingInstanceHeartbeat(l, all, self)
}

// Leave has the process leave for good when it stops, or takes that back.
func (m *Membership) Leave(forGood bool) { m.lifecycler.SetKeepInstanceInTheRingOnShutdown(!forGood) }

// ReadOnly says whether the member takes no more writes.
func (m *Membership) ReadOnly() bool {
	readOnly, _ := m.lifecycler.GetReadOnlyState()
	return readOnly
}

// SetReadOnly has the member take no more writes, or take them again; what it
// has is read as before.
func (m *Membership) SetReadOnly(ctx context.Context, readOnly bool) error {
	return m.lifecycler.ChangeReadOnlyState(ctx, readOnly)
}
