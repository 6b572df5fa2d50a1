package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lookEvery bounds how often handshakes look at the disk. The files are a few
// kilobytes, so they are read and compared rather than trusted to tell by their
// times that they have changed: that holds for any way to replace them.
const lookEvery = 2 * time.Second

// files are a certificate, its key and authorities as they lie on disk, and
// what was last read of them.
type files struct {
	section       string // of the configuration, for errors
	cert, key, ca string // paths; ca may be empty
	caKey         string // what ca is called in the configuration
	serve         func(*material) (*tls.Config, error)
	logger        *slog.Logger
	failures      prometheus.Counter
	every         time.Duration // lookEvery, but for tests

	used atomic.Pointer[material]

	mu        sync.Mutex
	looked    time.Time
	complaint string // the last that was logged
}

// material is what was read. It does not change.
type material struct {
	certPEM, keyPEM, caPEM []byte
	pair                   tls.Certificate
	authorities            *x509.CertPool // nil: there is no ca
	server                 *tls.Config
}

// open reads the files for the first time. A certificate that is not valid at
// the time is taken: others refuse it, and its renewal will be seen.
func (f *files) open() error {
	m, err := f.read()
	if err != nil {
		return err
	}
	f.used.Store(m)
	f.looked = time.Now()
	if err := m.validNow(); err != nil {
		f.logger.Error("clients will refuse this certificate until it is renewed", "section", f.section, "file", f.cert, "err", err)
	}
	return nil
}

// current is what a handshake that begins now uses. One of the handshakes that
// come at a time looks at the disk, the others do not wait for it.
func (f *files) current() *material {
	if f.mu.TryLock() {
		defer f.mu.Unlock()
		if time.Since(f.looked) >= f.every {
			f.look()
			f.looked = time.Now()
		}
	}
	return f.used.Load()
}

// look replaces what is used by what is on disk, if that can be used. Called
// with mu held.
func (f *files) look() {
	m, err := f.read()
	if err == nil {
		if m.equal(f.used.Load()) {
			f.complaint = ""
			return
		}
		err = m.validNow()
	}
	if err != nil {
		f.failures.Inc()
		if f.complaint != err.Error() { // the same again is for the metric only
			f.complaint = err.Error()
			f.logger.Warn("certificate on disk cannot be used, the one before stays", "section", f.section, "err", err)
		}
		return
	}
	f.used.Store(m)
	f.complaint = ""
	f.logger.Info("certificate read anew", "section", f.section, "subject", m.pair.Leaf.Subject.String(), "not_after", m.pair.Leaf.NotAfter)
}

func (f *files) read() (*material, error) {
	m := &material{}
	for _, part := range []struct {
		key, path string
		to        *[]byte
	}{{"cert_file", f.cert, &m.certPEM}, {"key_file", f.key, &m.keyPEM}, {f.caKey, f.ca, &m.caPEM}} {
		if part.path == "" {
			continue
		}
		text, err := os.ReadFile(part.path)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", f.section, part.key, err)
		}
		*part.to = text
	}
	var err error
	if m.pair, err = tls.X509KeyPair(m.certPEM, m.keyPEM); err != nil {
		return nil, fmt.Errorf("%s.cert_file and key_file: %w", f.section, err)
	}
	if f.ca != "" {
		if m.authorities, err = parseAuthorities(m.caPEM); err != nil {
			return nil, fmt.Errorf("%s.%s: %w", f.section, f.caKey, err)
		}
	}
	if m.server, err = f.serve(m); err != nil {
		return nil, fmt.Errorf("%s.cert_file: %w", f.section, err)
	}
	return m, nil
}

// parseAuthorities is strict, because half of a file must not count as fewer
// authorities.
func parseAuthorities(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	n := 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n+1, err)
		}
		pool.AddCert(cert)
		n++
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("certificate %d is cut off", n+1)
	}
	if n == 0 {
		return nil, errors.New("has no certificate in PEM")
	}
	return pool, nil
}

func (m *material) equal(o *material) bool {
	return bytes.Equal(m.certPEM, o.certPEM) && bytes.Equal(m.keyPEM, o.keyPEM) && bytes.Equal(m.caPEM, o.caPEM)
}

func (m *material) validNow() error {
	now, leaf := time.Now(), m.pair.Leaf
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		// Without the time that it is now: the same again is logged once.
		return fmt.Errorf("the certificate is valid from %s to %s", leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// server is a configuration whose every handshake uses the current files.
func (f *files) server() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current().server, nil },
	}
}

// forUsers speaks to every client that is not outdated, and asks for a
// certificate only where there are authorities to check it.
func forUsers(m *material) (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{m.pair},
	}
	if m.authorities != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, m.authorities
		c.SessionTicketsDisabled = true // each connection is checked by what is trusted now
	}
	return c, nil
}

// forMembers asks for a certificate with the members' name. It is an error if
// our own is not one: then others would refuse us.
func forMembers(m *material, name string) (*tls.Config, error) {
	if err := m.isMember(name); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{m.pair},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              m.authorities,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return cs.PeerCertificates[0].VerifyHostname(name)
		},
	}, nil
}

// isMember checks our own certificate as others do, its dates aside.
func (m *material) isMember(name string) error {
	at := time.Now()
	if leaf := m.pair.Leaf; at.Before(leaf.NotBefore) {
		at = leaf.NotBefore
	} else if at.After(leaf.NotAfter) {
		at = leaf.NotAfter
	}
	above := x509.NewCertPool()
	for _, der := range m.pair.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		above.AddCert(cert)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := m.pair.Leaf.Verify(x509.VerifyOptions{
			Roots: m.authorities, Intermediates: above, DNSName: name, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use},
		}); err != nil {
			return fmt.Errorf("other members would refuse it as a %s: %w", roles[use], err)
		}
	}
	return nil
}

var roles = map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "server", x509.ExtKeyUsageClientAuth: "client"}

// asClient is how a member calls another. The caller adds the server's name.
func (m *material) asClient() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    m.authorities,
		// Shown even if the server seems not to know its authority, so that the
		// server can tell why it refuses.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &m.pair, nil },
	}
}
