package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// Bounds on connections between members. Flow control is left to gRPC, whose
// windows grow with what the line can carry.
const (
	maxMessageBytes   = 128 << 20
	maxHeaderBytes    = 64 << 10
	ioBufferBytes     = 128 << 10 // a push in one system call
	maxStreams        = 1000      // calls at once on a connection; more wait at the caller
	handshakeTimeout  = 10 * time.Second
	connectTimeout    = 3 * time.Second
	pingAfter         = 10 * time.Second // without a byte from the other end
	pingTimeout       = 5 * time.Second  // then it is gone, and calls fail
	leastPingInterval = 5 * time.Second
	maxReconnectDelay = 2 * time.Second // a member that was restarted is back soon
	maxConnectionAge  = time.Hour       // then a certificate has to be valid again
	connectionGrace   = 15 * time.Minute
)

// secretErrorID is told to a member whose secret is not ours, and to a stranger.
const secretErrorID = "err-cluster-secret"

// healthService may be asked by strangers: probes are none of us.
const healthService = "/grpc.health.v1.Health/"

// ServerOptions are for a gRPC server that only members may call.
func (t *Transport) ServerOptions() []grpc.ServerOption {
	alive := keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}
	if t.members != nil {
		alive.MaxConnectionAge, alive.MaxConnectionAgeGrace = maxConnectionAge, connectionGrace
	}
	return []grpc.ServerOption{
		grpc.Creds(&creds{Transport: t}),
		grpc.InTapHandle(t.admit),
		grpc.KeepaliveParams(alive),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: leastPingInterval, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.ReadBufferSize(ioBufferBytes),
		grpc.WriteBufferSize(ioBufferBytes),
	}
}

// Dial makes a connection to a member at host:port, which the caller closes. It
// connects when it is first used, and again whenever it is lost.
func (t *Transport) Dial(addr string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	own := []grpc.DialOption{
		grpc.WithTransportCredentials(&creds{Transport: t}),
		grpc.WithNoProxy(), // members are near; a proxy of the environment is for others
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnectDelay},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithReadBufferSize(ioBufferBytes),
		grpc.WithWriteBufferSize(ioBufferBytes),
	}
	if t.members != nil {
		own = append(own, grpc.WithAuthority(t.name))
	}
	if len(t.secrets) > 0 {
		own = append(own, grpc.WithPerRPCCredentials(holdBack{}))
	}
	conn, err := grpc.NewClient(addr, append(own, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("dial member %s: %w", addr, err)
	}
	return conn, nil
}

// admit decides about a call by its connection. It runs before anything of the
// call but its header is read, for every method.
func (t *Transport) admit(ctx context.Context, call *tap.Info) (context.Context, error) {
	from, _ := peer.FromContext(ctx)
	who, _ := from.AuthInfo.(member)
	if who.standing == trusted || strings.HasPrefix(call.FullMethodName, healthService) {
		return ctx, nil
	}
	reason, err := reasonNoSecret, status.Errorf(codes.Unauthenticated, "only members may call this, and the caller has not proved the cluster secret: set cluster.secret as it is here (%s)", secretErrorID)
	if who.standing == wrongSecret {
		reason, err = reasonWrongSecret, differs()
	}
	t.refuse(doorGRPC, reason, from.Addr.String(), err)
	return nil, err
}

func differs() error {
	return status.Errorf(codes.Unauthenticated, "caller and member have different cluster secrets: make cluster.secret the same on both (%s)", secretErrorID)
}

// holdBack keeps calls, and the data in them, from a server that has not proved
// the secret.
type holdBack struct{}

// GetRequestMetadata implements credentials.PerRPCCredentials. It adds nothing.
func (holdBack) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, _ := credentials.RequestInfoFromContext(ctx)
	if who, ok := info.AuthInfo.(member); !ok || who.standing != trusted {
		return nil, differs()
	}
	return nil, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (holdBack) RequireTransportSecurity() bool { return false }

// member is the other end of a connection.
type member struct {
	credentials.CommonAuthInfo
	standing standing
}

// AuthType implements credentials.AuthInfo.
func (member) AuthType() string { return "hearth" }

// creds begins connections: TLS with the files of the moment if there are any,
// then the secret if there is one.
type creds struct{ *Transport }

// ClientHandshake implements credentials.TransportCredentials.
func (c *creds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.outer(false).ClientHandshake(ctx, authority, raw)
	if err != nil || len(c.secrets) == 0 {
		return conn, info, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	session, err := sessionOf(info)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	is, err := prove(conn, c.secrets[0], session)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, member{common(info), is}, nil
}

// ServerHandshake implements credentials.TransportCredentials. gRPC has set a
// deadline on the connection.
func (c *creds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.outer(true).ServerHandshake(raw)
	if err != nil {
		if !errors.Is(err, io.EOF) { // somebody looks whether the port is open
			c.refuse(doorGRPC, reasonTLS, raw.RemoteAddr().String(), err)
		}
		return nil, nil, err
	}
	if len(c.secrets) == 0 {
		return conn, member{common(info), trusted}, nil
	}
	session, err := sessionOf(info)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	inner, is, err := examine(conn, c.secrets, session)
	if err != nil {
		conn.Close()
		return nil, nil, err // as it is: gRPC compares it with io.EOF
	}
	if is == wrongSecret {
		// The client will make no call: this is where it shows.
		c.refuse(doorGRPC, reasonWrongSecret, raw.RemoteAddr().String(), differs())
	}
	return inner, member{common(info), is}, nil
}

func (c *creds) outer(server bool) credentials.TransportCredentials {
	switch {
	case c.members == nil:
		return insecure.NewCredentials()
	case server:
		return credentials.NewTLS(c.members.current().server)
	default:
		return credentials.NewTLS(c.members.current().asClient())
	}
}

// sessionOf is what only the two ends of a TLS connection know; without TLS
// there is none.
func sessionOf(info credentials.AuthInfo) ([]byte, error) {
	over, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil
	}
	return exported(&over.State)
}

func exported(state *tls.ConnectionState) ([]byte, error) {
	key, err := state.ExportKeyingMaterial("EXPORTER-hearth-cluster-secret", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("tie the cluster secret to the TLS session: %w", err)
	}
	return key, nil
}

func common(info credentials.AuthInfo) credentials.CommonAuthInfo {
	c, _ := info.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	})
	return c.GetCommonAuthInfo()
}

// Info implements credentials.TransportCredentials.
func (c *creds) Info() credentials.ProtocolInfo { return c.outer(false).Info() }

// Clone implements credentials.TransportCredentials.
func (c *creds) Clone() credentials.TransportCredentials { return &creds{c.Transport} }

// OverrideServerName implements credentials.TransportCredentials.
func (c *creds) OverrideServerName(string) error {
	return errors.New("the name of members is in the configuration, cluster.tls.name")
}
