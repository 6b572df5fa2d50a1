package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	dstls "github.com/grafana/dskit/crypto/tls"
	"github.com/grafana/dskit/flagext"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/grafana/dskit/services"
)

// Gossip is the door through which other members' gossip comes in. It is there
// because memberlist's own TLS asks no client for a certificate and serves the
// certificate that it was started with until it ends. So the door does what
// gRPC's does, and hands on to memberlist, which listens on the loopback address
// only. The way out is memberlist's; it shows the current certificate, but
// trusts the authorities that were there at the start.
//
// It is a service: it has to run before memberlist joins others, and until
// memberlist has stopped.
type Gossip struct {
	services.Service

	t        *Transport
	addr     string // to listen on
	inside   string // where memberlist listens
	served   atomic.Pointer[[]byte]
	listener net.Listener
}

const (
	maxGossipConns      = 512
	gossipTimeout       = 30 * time.Second // for a whole exchange, which is one packet or both members' state
	gossipHandshakeTime = 5 * time.Second
	acceptRetry         = 100 * time.Millisecond
)

// SealGossip puts TLS around the gossip of a configuration that is complete but
// not in use yet, and has others told the port that it binds. Where members
// have no TLS it leaves the configuration alone.
func (t *Transport) SealGossip(cfg *memberlist.KVConfig) (*Gossip, error) {
	g := &Gossip{t: t}
	if t.members == nil {
		g.Service = services.NewIdleService(nil, nil)
		return g, nil
	}
	tcp := &cfg.TCPTransport
	if len(tcp.BindAddrs) != 1 || cfg.AdvertiseAddr == "" {
		return nil, fmt.Errorf("gossip over TLS: want one address to listen on and one to advertise, got %v and %q", tcp.BindAddrs, cfg.AdvertiseAddr)
	}
	outside, err := portOn(tcp.BindAddrs[0], tcp.BindPort)
	if err != nil {
		return nil, err
	}
	inside, err := portOn("127.0.0.1", 0)
	if err != nil {
		return nil, err
	}
	g.addr = net.JoinHostPort(tcp.BindAddrs[0], strconv.Itoa(outside))
	g.inside = net.JoinHostPort("127.0.0.1", strconv.Itoa(inside))
	cfg.AdvertisePort = outside
	tcp.BindAddrs, tcp.BindPort, tcp.TLSEnabled = flagext.StringSlice{"127.0.0.1"}, inside, true
	tcp.TLS = dstls.ClientConfig{
		CertPath: t.members.cert, KeyPath: t.members.key, CAPath: t.members.ca,
		ServerName: t.name, MinVersion: "VersionTLS13", Reader: g,
	}
	g.Service = services.NewBasicService(g.listen, g.accept, nil)
	return g, nil
}

// portOn is the port, or for 0 one that is free now: memberlist has to know it
// before anybody listens.
func portOn(host string, port int) (int, error) {
	if port != 0 {
		return port, nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a port for gossip: %w", err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// ReadSecret gives memberlist the files, whole ones only: what it begins with,
// and the certificate for every connection that it makes.
func (g *Gossip) ReadSecret(path string) ([]byte, error) {
	m := g.t.members.current()
	switch path {
	case g.t.members.cert:
		// The first that it reads is the one it serves from then on.
		g.served.CompareAndSwap(nil, &m.pair.Certificate[0])
		return m.certPEM, nil
	case g.t.members.key:
		return m.keyPEM, nil
	default:
		return m.caPEM, nil
	}
}

func (g *Gossip) listen(ctx context.Context) (err error) {
	var lc net.ListenConfig
	if g.listener, err = lc.Listen(ctx, "tcp", g.addr); err != nil {
		return fmt.Errorf("listen for gossip: %w", err)
	}
	return nil
}

func (g *Gossip) accept(ctx context.Context) error {
	var relays sync.WaitGroup
	defer relays.Wait()
	stop := context.AfterFunc(ctx, func() { _ = g.listener.Close() })
	defer stop()
	slots := make(chan struct{}, maxGossipConns)
	for {
		conn, err := g.listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil { // no file descriptors left, most likely
			g.t.logger.Error("gossip not accepted", "err", err)
			pause(ctx, acceptRetry)
			continue
		}
		slots <- struct{}{} // each is given back within gossipTimeout
		relays.Go(func() {
			defer func() { <-slots }()
			g.relay(ctx, conn)
		})
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// relay lets one connection in.
func (g *Gossip) relay(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	ctx, cancel := context.WithTimeout(ctx, gossipTimeout)
	defer cancel()
	outer := tls.Server(raw, g.t.members.current().server)
	if err := g.greet(ctx, outer); err != nil {
		if !errors.Is(err, io.EOF) {
			g.t.refuse(doorGossip, reasonTLS, raw.RemoteAddr().String(), err)
		}
		return
	}
	inner, err := g.dialInside(ctx)
	if err != nil {
		g.t.logger.Debug("gossip came before memberlist listens, or after", "err", err)
		return
	}
	defer inner.NetConn().Close() // without a word: pass has said it
	stop := context.AfterFunc(ctx, func() { raw.Close(); inner.NetConn().Close() })
	defer stop()

	back := make(chan struct{})
	go func() {
		defer close(back)
		pass(outer, inner)
	}()
	pass(inner, outer)
	<-back
}

func (g *Gossip) greet(ctx context.Context, conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, gossipHandshakeTime)
	defer cancel()
	return conn.HandshakeContext(ctx)
}

// pass copies until one end says that it is done, and says so to the other. A
// connection that breaks is broken on, so that no part of a packet passes for
// the whole.
func pass(to, from *tls.Conn) {
	_, err := io.Copy(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		if tcp, ok := to.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset; without one it would look like an end
		}
		to.NetConn().Close()
	}
}

// dialInside reaches memberlist, and makes sure that it is ours: its
// certificate is the one we gave it, whether or not that is still valid.
func (g *Gossip) dialInside(ctx context.Context) (*tls.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // the certificate is compared instead
		VerifyConnection: func(cs tls.ConnectionState) error {
			if ours := g.served.Load(); ours == nil || !bytes.Equal(cs.PeerCertificates[0].Raw, *ours) {
				return errors.New("another process listens where memberlist should")
			}
			return nil
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", g.inside)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}
