package block

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"syscall"
)

// OfMachine says that an error comes from this machine and says nothing about
// a block: its disk, its memory, its files, a stop.
func OfMachine(err error) bool {
	var number syscall.Errno
	var path *fs.PathError
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &number) ||
		(errors.As(err, &path) && !errors.Is(err, io.ErrUnexpectedEOF))
}
