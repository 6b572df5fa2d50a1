package tenant

import (
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hearth-metrics/hearth/wire"
)

// throttle slows down those who try wrong tokens. A right token always passes:
// its secret cannot be guessed, and to lock it out would be a way to harm its
// owner. So this bounds the noise and the work, for each address.
type throttle struct {
	mu     sync.Mutex
	failed map[string]*rate.Limiter // by address
	reset  time.Time
}

// Bounds on failed attempts from one address.
const (
	attemptsPerSecond = 5
	attemptsAtOnce    = 50
	attemptsRetry     = time.Second
)

// maxAddresses bounds the table; whoever has more addresses than that starts
// anew, and is bounded by having to.
const maxAddresses = 10_000

// slow returns the error of a failed attempt, or another one where there were
// too many.
func (t *throttle) slow(remote string, now time.Time, err error) error {
	var ue *wire.UserError
	if !errors.As(err, &ue) || ue.ID != "err-token-invalid" {
		return err
	}
	host, _, splitErr := net.SplitHostPort(remote)
	if splitErr != nil {
		host = remote
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.reset) > time.Hour || len(t.failed) > maxAddresses {
		t.failed, t.reset = map[string]*rate.Limiter{}, now
	}
	l := t.failed[host]
	if l == nil {
		l = rate.NewLimiter(attemptsPerSecond, attemptsAtOnce)
		t.failed[host] = l
	}
	if l.AllowN(now, 1) {
		return err
	}
	return &wire.UserError{Kind: wire.Limited, ID: "err-too-many-attempts", Msg: "too many requests with wrong tokens from this address", RetryAfter: attemptsRetry}
}
