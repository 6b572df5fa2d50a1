package importer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	// idleTimeout is how long a sender may pause within a file.
	idleTimeout = time.Minute

	// answerTimeout is how long the bucket may take for a file, beginning with
	// its last byte.
	answerTimeout = 10 * time.Minute

	// spareDisk is what is left free on local disk, for the others that use it.
	spareDisk = 1 << 30
)

// body is the body of a request, however long it takes to come: the server's
// time for a request is for those who send a few kilobytes.
type body struct {
	w http.ResponseWriter
	r *http.Request
}

// Read implements io.Reader.
func (b body) Read(p []byte) (int, error) {
	// A connection that knows no deadlines has none to be put off.
	rc := http.NewResponseController(b.w)
	_ = rc.SetReadDeadline(time.Now().Add(idleTimeout))
	_ = rc.SetWriteDeadline(time.Now().Add(answerTimeout))
	return b.r.Body.Read(p)
}

// receive takes a file of an upload that was started. It is on local disk
// first, so that the bucket gets it whole, as often as it takes.
func (i *Importer) receive(ctx context.Context, u upload, path string, in body) error {
	if !block.IsPart(path) {
		return errInvalid("path is %q, want index, chunks/000001 and so on, or tombstones", path)
	}
	s, err := i.open(ctx, u)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(s.meta.Thanos.Files, func(f bucket.File) bool { return f.RelPath == path })
	if at < 0 {
		return errInvalid("meta.json, as the upload was started with, does not list %s", path)
	}
	size := s.meta.Thanos.Files[at].SizeBytes
	switch {
	case in.r.ContentLength == 0:
		return errInvalid("%s is empty", path)
	case in.r.ContentLength > 0 && in.r.ContentLength != size:
		return errInvalid("%s has %d bytes, meta.json says %d", path, in.r.ContentLength, size)
	}
	select {
	case i.receiving <- struct{}{}:
		defer func() { <-i.receiving }()
	default:
		return errBusy("too many files are being received")
	}
	if free, ok := block.FreeDisk(i.dir); ok && free < size+spareDisk {
		return errNoRoom()
	}
	file, err := spool(i.dir, in, size)
	if err != nil {
		return err
	}
	defer func() {
		_ = file.Close() // it was read
		_ = os.Remove(file.Name())
	}()
	i.metrics.bytes.Add(float64(size))
	// It may have taken hours: what is being verified is not touched.
	if _, err := i.open(ctx, u); err != nil {
		return err
	}
	_, err = i.bucket.Put(ctx, u.key(path), file, size, bucket.Condition{IfAbsent: true})
	if errors.Is(err, bucket.ErrPrecondition) {
		return nil // it is there in the right size: present has seen to that
	}
	return err
}

// spool writes what is sent to a file below dir. It must have size bytes.
func spool(dir string, in io.Reader, size int64) (_ *os.File, err error) {
	file, err := os.CreateTemp(dir, "file-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = file.Close() // it is thrown away
			_ = os.Remove(file.Name())
		}
	}()
	from := &sender{r: io.LimitReader(in, size+1)}
	n, err := io.Copy(file, from)
	switch {
	case from.err != nil:
		return nil, wire.Errorf(wire.Invalid, "err-block-invalid", "the file broke off after %d bytes: %s", n, from.err)
	case err != nil:
		return nil, err
	case n != size:
		return nil, errInvalid("the file has %d bytes or more, meta.json says %d", n, size)
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}

// sender tells the sender's failures from those of the disk.
type sender struct {
	r   io.Reader
	err error
}

func (s *sender) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func errBusy(why string) error {
	err := wire.Errorf(wire.Limited, "err-block-upload-busy", "%s; try again", why)
	err.RetryAfter = 10 * time.Second
	return err
}

func errNoRoom() error {
	err := wire.Errorf(wire.Unavailable, "err-block-upload-no-room", "there is no room for the block now; try again later")
	err.RetryAfter = time.Minute
	return err
}
