package buckettest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// door is an address on this machine. While it is shut, connections to it are
// refused, and still it is given to nobody who asks for some free port: its
// socket is bound and does not listen.
type door struct {
	port   int
	socket *os.File // while shut
}

// newDoor is a door at a free port, shut.
func newDoor() (*door, error) {
	d := &door{}
	if err := d.shut(); err != nil {
		return nil, err
	}
	bound, err := syscall.Getsockname(int(d.socket.Fd()))
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	in4, ok := bound.(*syscall.SockaddrInet4)
	if !ok {
		return nil, fmt.Errorf("find a free port: bound to %T", bound)
	}
	d.port = in4.Port
	return d, nil
}

func (d *door) addr() string { return fmt.Sprintf("127.0.0.1:%d", d.port) }

// open returns what listens at the door from now on.
func (d *door) open() (net.Listener, error) {
	if err := syscall.Listen(int(d.socket.Fd()), syscall.SOMAXCONN); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", d.addr(), err)
	}
	l, err := net.FileListener(d.socket) // has a copy of the socket
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", d.addr(), err)
	}
	return l, d.free()
}

// shut takes the address, after the listener was closed. A process that is
// just being started has a copy of the listener for a moment.
func (d *door) shut() error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		err := d.tryShut()
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return err
		}
	}
}

func (d *door) tryShut() error {
	syscall.ForkLock.RLock() // no child gets the socket
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	// Connections that were just closed still have the address.
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: d.port, Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		_ = syscall.Close(fd)
		return fmt.Errorf("take the address %s: %w", d.addr(), err)
	}
	d.socket = os.NewFile(uintptr(fd), d.addr())
	return nil
}

// free gives the address of a shut door back.
func (d *door) free() error {
	if d.socket == nil {
		return nil
	}
	socket := d.socket
	d.socket = nil
	return socket.Close()
}
