package app

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"github.com/grafana/dskit/services"

	"github.com/hearth-metrics/hearth/ingester"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/wire"
)

// settle is how long the others may take to hear that a member has changed,
// and to finish the writes that they had sent it before.
const settle = 15 * time.Second

// leaver takes an ingester out of the cluster, on an operator's word.
type leaver struct {
	app        *App
	ing        *ingester.Ingester
	membership *ring.Membership

	mu   sync.Mutex
	left bool
}

func (l *leaver) register(r *mux.Router) {
	r.HandleFunc("/ingester/mode", l.showMode).Methods(http.MethodGet)
	r.HandleFunc("/ingester/mode", l.setMode).Methods(http.MethodPost)
	r.HandleFunc("/ingester/shutdown", l.shutdown).Methods(http.MethodPost)
}

const (
	modeActive   = "ACTIVE"
	modeReadOnly = "READONLY"
)

func (l *leaver) showMode(w http.ResponseWriter, _ *http.Request) {
	mode := modeActive
	if l.membership.ReadOnly() {
		mode = modeReadOnly
	}
	writeText(w, mode+"\n")
}

// setMode has the others send no more writes here, or send them again. What is
// here is read as before.
func (l *leaver) setMode(w http.ResponseWriter, r *http.Request) {
	mode := r.URL.Query().Get("mode")
	if mode != modeActive && mode != modeReadOnly {
		wire.WriteHTTPError(w, wire.Errorf(wire.Invalid, "err-ingester-mode", "mode %q is unknown, there are %s and %s", mode, modeActive, modeReadOnly))
		return
	}
	if err := l.membership.SetReadOnly(r.Context(), mode == modeReadOnly); err != nil {
		wire.WriteHTTPError(w, fmt.Errorf("change the mode: %w", err))
		return
	}
	l.app.logger.Info("mode changed", "mode", mode)
	w.WriteHeader(http.StatusNoContent)
}

// shutdown hands everything over: no more writes, all that is here to the
// bucket, and, once queriers know of it, out of the ring for good. It answers
// when the process can be stopped and its disk thrown away. It can be repeated
// where it fails.
func (l *leaver) shutdown(w http.ResponseWriter, r *http.Request) {
	if !l.mu.TryLock() {
		wire.WriteHTTPError(w, &wire.UserError{Kind: wire.Unavailable, ID: "err-ingester-leaving", Msg: "this ingester is leaving already, ask again later", RetryAfter: settle})
		return
	}
	defer l.mu.Unlock()
	// A client that hangs up does not stop it half way.
	if err := l.leave(context.WithoutCancel(r.Context())); err != nil {
		l.app.logger.Error("ingester could not leave, ask again", "err", err)
		wire.WriteHTTPError(w, fmt.Errorf("leave: %w", err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (l *leaver) leave(ctx context.Context) error {
	if l.left {
		return nil
	}
	if err := l.membership.SetReadOnly(ctx, true); err != nil {
		return err
	}
	l.app.logger.Info("ingester leaves: no more writes, shipping what it has")
	pause(settle)
	if _, err := l.ing.Flush(ctx); err != nil {
		return err
	}
	// Queriers look for new blocks that often, and until they do they ask here.
	pause(time.Duration(l.app.cfg.Querier.RefreshInterval) + settle)
	l.membership.Leave(true)
	if err := services.StopAndAwaitTerminated(ctx, l.membership); err != nil {
		return err
	}
	l.left = true
	l.app.logger.Info("ingester has left; the process can be stopped and its disk thrown away")
	return nil
}

func pause(d time.Duration) { <-time.After(d) }
