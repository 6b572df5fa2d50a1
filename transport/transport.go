// Package transport is the SEAL: who may listen in, and who may speak as a
// member of the cluster.
//
// In come the names of files with certificates, and a secret; out come what a
// server and a client need: TLS for users over HTTP, mutual TLS between members
// for gRPC and gossip, and gRPC connections on which both ends have proved that
// they know the secret. Promises: a certificate, key or authority that is
// renewed on disk holds for connections that begin a few seconds later, without
// a restart, and one that cannot be used never replaces one that can; the
// secret never travels, and what is overheard of its proof is of no use again.
//
// Start reading at New; files.go is what lies on disk, proof.go the secret,
// grpc.go and gossip.go the two ways in which members talk.
package transport

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Transport has what all connections of a process share. Safe for concurrent
// use.
type Transport struct {
	http    *files // nil: users come without TLS
	members *files // nil: so do members
	name    string // in every member's certificate
	secrets [][]byte
	logger  *slog.Logger
	metrics *metrics
	warning *rate.Limiter
}

// New reads all files, so that what is wrong is told at once.
func New(cfg Config, http HTTPTLS, logger *slog.Logger, reg prometheus.Registerer) (*Transport, error) {
	t := &Transport{
		name: cfg.TLS.Name, logger: logger, metrics: newMetrics(reg),
		warning: rate.NewLimiter(rate.Every(time.Second), 10),
	}
	for _, s := range []Secret{cfg.Secret, cfg.AcceptSecret} {
		if s != "" {
			t.secrets = append(t.secrets, []byte(s))
		}
	}
	var all []*files
	if http.CertFile != "" {
		t.http = &files{
			section: "server.http_tls", cert: http.CertFile, key: http.KeyFile, ca: http.ClientCAFile, caKey: "client_ca_file",
			serve: forUsers,
		}
		all = append(all, t.http)
	}
	if cfg.TLS.CertFile != "" {
		t.members = &files{
			section: "cluster.tls", cert: cfg.TLS.CertFile, key: cfg.TLS.KeyFile, ca: cfg.TLS.CAFile, caKey: "ca_file",
			serve: func(m *material) (*tls.Config, error) { return forMembers(m, cfg.TLS.Name) },
		}
		all = append(all, t.members)
	}
	for _, f := range all {
		f.logger, f.every = logger, lookEvery
		f.failures = t.metrics.loadFailures.WithLabelValues(f.section)
		if err := f.open(); err != nil {
			return nil, err
		}
	}
	reg.MustRegister(newExpiryGauge(all))
	return t, nil
}

// HTTP is the TLS of the server for users, nil if there is none.
func (t *Transport) HTTP() *tls.Config {
	if t.http == nil {
		return nil
	}
	return t.http.server()
}

// refuse counts and, at a bounded rate, logs who was not let in.
func (t *Transport) refuse(door, reason, from string, err error) {
	t.metrics.refused.WithLabelValues(door, reason).Inc()
	if t.warning.Allow() {
		t.logger.Warn("not let in as a member", "door", door, "reason", reason, "from", from, "err", err)
	}
}
