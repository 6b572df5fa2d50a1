package transport

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// How members prove that they know the secret, once for each connection and
// before the first byte of HTTP/2:
//
//	client → server   hello, 32 random bytes
//	server → client   32 random bytes
//	client → server   HMAC of both and of the TLS session, as client
//	server → client   1 and an HMAC of the same, as server; or 0
//
// Both random parts are new each time, so what is overheard does not fit
// another connection, and neither end needs a right clock. The client goes
// first: the server tells nothing about the secret to who does not know it. The
// TLS session is part of it, so that nobody can stand between the two. Without
// TLS it shows who begins to speak, but whoever can change bytes on the way can
// still do so afterwards.
//
// A client that does not begin with the hello is let in as a stranger: it may
// ask whether the server is well.

const (
	hello     = "HEARTH\x00\x01"
	nonceSize = 32
	accepted  = 1

	asClient = "hearth client"
	asServer = "hearth server"
)

// standing is what one end of a connection knows about the other.
type standing uint8

const (
	trusted     standing = iota // has proved the secret, or there is none
	stranger                    // has not tried
	wrongSecret                 // has another one
)

// prove is the client's side.
func prove(conn net.Conn, secret, session []byte) (standing, error) {
	first := append([]byte(hello), nonce()...)
	if _, err := conn.Write(first); err != nil {
		return stranger, err
	}
	nonces := append(first[len(hello):], make([]byte, nonceSize)...)
	if _, err := io.ReadFull(conn, nonces[nonceSize:]); err != nil {
		return stranger, unanswered(conn, err)
	}
	if _, err := conn.Write(sign(secret, asClient, nonces, session)); err != nil {
		return stranger, err
	}
	var verdict [1 + sha256.Size]byte
	if _, err := io.ReadFull(conn, verdict[:]); err != nil {
		return stranger, unanswered(conn, err)
	}
	if verdict[0] != accepted || !hmac.Equal(verdict[1:], sign(secret, asServer, nonces, session)) {
		return wrongSecret, nil
	}
	return trusted, nil
}

// unanswered says what it most likely means when the server hangs up.
func unanswered(conn net.Conn, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%s ends the connection instead of answering about the cluster secret, is cluster.secret set there? %w", conn.RemoteAddr(), err)
	}
	return fmt.Errorf("prove the cluster secret: %w", err)
}

// examine is the server's side. It returns the connection to go on with.
func examine(conn net.Conn, secrets [][]byte, session []byte) (net.Conn, standing, error) {
	var first [len(hello) + nonceSize]byte
	head, nonces := first[:len(hello)], append(first[len(hello):], nonce()...)
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, stranger, err
	}
	if string(head) != hello {
		return &resumed{Conn: conn, head: head}, stranger, nil
	}
	if _, err := io.ReadFull(conn, nonces[:nonceSize]); err != nil {
		return nil, stranger, err
	}
	if _, err := conn.Write(nonces[nonceSize:]); err != nil {
		return nil, stranger, err
	}
	var proof [sha256.Size]byte
	if _, err := io.ReadFull(conn, proof[:]); err != nil {
		return nil, stranger, err
	}
	verdict, is := make([]byte, 1+sha256.Size), wrongSecret
	for _, secret := range secrets {
		if hmac.Equal(proof[:], sign(secret, asClient, nonces, session)) {
			verdict[0], is = accepted, trusted
			copy(verdict[1:], sign(secret, asServer, nonces, session))
		}
	}
	_, err := conn.Write(verdict)
	return conn, is, err
}

func nonce() []byte {
	n := make([]byte, nonceSize)
	_, _ = rand.Read(n) // never fails
	return n
}

// sign covers fields whose lengths are fixed or come last, so that no two
// inputs look the same.
func sign(secret []byte, as string, nonces, session []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(as)) // a hash does not fail
	mac.Write(nonces)
	mac.Write(session)
	return mac.Sum(nil)
}

// resumed gives back first what was read to see who comes.
type resumed struct {
	net.Conn
	head []byte
}

// Read implements net.Conn.
func (c *resumed) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
