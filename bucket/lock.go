package bucket

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

// keyLock excludes others from changing some of a folder's keys: goroutines by
// a channel, processes by a lock of a file that the kernel takes back when its
// holder dies.
type keyLock struct {
	path string
	held chan struct{} // capacity 1
}

// acquire waits for the lock until the context ends.
func (l *keyLock) acquire(ctx context.Context) (release func(), err error) {
	select {
	case l.held <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	file, err := l.lockFile(ctx)
	if err != nil {
		<-l.held
		return nil, err
	}
	return func() {
		_ = file.Close() // releases the lock
		<-l.held
	}, nil
}

// lockFile asks again and again, since a wait in the kernel does not end with
// the context. Only another process can make it wait, and that for as long as
// a rename and a sync take.
func (l *keyLock) lockFile(ctx context.Context) (*os.File, error) {
	file, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			break
		}
		if err = pause(ctx, wait); err != nil {
			break
		}
	}
	_ = file.Close()
	return nil, err
}

// pause waits between half of d and d, so that those who collided do not meet
// again.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
