// Package transporttest is the FORGE: certificates for tests, made on the spot
// and worth nothing elsewhere.
package transporttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// CA is an authority.
type CA struct {
	PEM []byte

	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	ca := &CA{tb: tb, key: newKey(tb)}
	der := ca.sign(&x509.Certificate{
		SerialNumber: serial(tb), Subject: pkix.Name{CommonName: "authority for a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, ca.key)
	var err error
	ca.cert, err = x509.ParseCertificate(der)
	require.NoError(tb, err)
	ca.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return ca
}

// Pool trusts the authority.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Leaf is what to certify. Zero fields mean: a member's certificate that is
// valid for an hour.
type Leaf struct {
	Names     []string // beside localhost; nil: hearth
	NotBefore time.Time
	NotAfter  time.Time
	Usage     []x509.ExtKeyUsage // nil: server and client
}

// Pair is a certificate with its key, in PEM.
type Pair struct{ Cert, Key []byte }

// Issue makes a certificate for 127.0.0.1, localhost and the names of the leaf.
func (ca *CA) Issue(l Leaf) Pair {
	ca.tb.Helper()
	if l.Names == nil {
		l.Names = []string{"hearth"}
	}
	if l.NotBefore.IsZero() {
		l.NotBefore = time.Now().Add(-2 * time.Hour)
	}
	if l.NotAfter.IsZero() {
		l.NotAfter = time.Now().Add(time.Hour)
	}
	if l.Usage == nil {
		l.Usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	key := newKey(ca.tb)
	der := ca.sign(&x509.Certificate{
		SerialNumber: serial(ca.tb), Subject: pkix.Name{CommonName: "leaf of a test"},
		NotBefore: l.NotBefore, NotAfter: l.NotAfter,
		DNSNames: append([]string{"localhost"}, l.Names...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: l.Usage,
	}, key)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(ca.tb, err)
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

// TLS is the pair as crypto/tls wants it.
func (p Pair) TLS(tb testing.TB) tls.Certificate {
	tb.Helper()
	cert, err := tls.X509KeyPair(p.Cert, p.Key)
	require.NoError(tb, err)
	return cert
}

// Files is a folder as a Kubernetes secret of type tls is mounted.
type Files struct{ Dir, Cert, Key, CA string }

// Write puts a pair and authorities into a folder.
func (p Pair) Write(tb testing.TB, dir string, cas ...*CA) Files {
	tb.Helper()
	f := Files{Dir: dir, Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	var authorities []byte
	for _, ca := range cas {
		authorities = append(authorities, ca.PEM...)
	}
	for path, text := range map[string][]byte{f.Cert: p.Cert, f.Key: p.Key, f.CA: authorities} {
		require.NoError(tb, os.WriteFile(path, text, 0o600))
	}
	return f
}

func (ca *CA) sign(template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	ca.tb.Helper()
	parent := ca.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), ca.key)
	require.NoError(ca.tb, err)
	return der
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	return key
}

func serial(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	require.NoError(tb, err)
	return n
}
