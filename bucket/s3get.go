package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"
)

// Get implements Bucket.
func (s *s3Bucket) Get(ctx context.Context, key Key) (io.ReadCloser, Object, error) {
	r, info, err := s.read(ctx, opGet, key, 0, wholeObject)
	if err != nil {
		return nil, Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	obj := s.object(info)
	obj.Key = key
	return r, obj, nil
}

// GetRange implements Bucket.
func (s *s3Bucket) GetRange(ctx context.Context, key Key, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 || length < 0 {
		return nil, fmt.Errorf("get range of %s: offset %d and length %d must not be negative", key, offset, length)
	}
	if length == 0 { // HTTP cannot ask for nothing
		info, err := s.stat(ctx, key)
		switch {
		case err != nil:
			return nil, fmt.Errorf("get range of %s: %w", key, err)
		case offset > info.Size:
			return nil, rangeError(key, offset, length, info.Size)
		}
		return http.NoBody, nil
	}
	r, _, err := s.read(ctx, opGetRange, key, offset, length)
	if err != nil {
		return nil, fmt.Errorf("get range of %s: %w", key, err)
	}
	return r, nil
}

const wholeObject = -1

func (s *s3Bucket) read(ctx context.Context, op string, key Key, offset, length int64) (*s3Reader, minio.ObjectInfo, error) {
	if err := key.Validate(); err != nil {
		return nil, minio.ObjectInfo{}, err
	}
	var body io.ReadCloser
	var info minio.ObjectInfo
	err := s.try(ctx, op, func(ctx context.Context) (err error) {
		body, info, err = s.open(ctx, key, offset, length, "")
		return err
	})
	if err != nil {
		return nil, info, err
	}
	if length == wholeObject {
		length = info.Size
	}
	return &s3Reader{ctx: ctx, s: s, op: op, key: key, etag: info.ETag, next: offset, end: offset + length, body: body}, info, nil
}

// open asks for a part of an object once, and makes sure that this is what the
// answer holds: its length is known, and is the one asked for.
func (s *s3Bucket) open(ctx context.Context, key Key, offset, length int64, etag string) (io.ReadCloser, minio.ObjectInfo, error) {
	var opts minio.GetObjectOptions
	if length != wholeObject {
		opts.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	}
	if etag != "" {
		opts.Set("If-Match", `"`+etag+`"`)
	}
	body, info, header, err := s.core.GetObject(ctx, s.cfg.Bucket, s.name(key), opts)
	if err != nil {
		var answer minio.ErrorResponse
		if errors.As(err, &answer) && answer.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			err = fmt.Errorf("bytes %d to %d: %w", offset, offset+length, &sourceError{io.ErrUnexpectedEOF})
		}
		return nil, info, err
	}
	if err := checkAnswer(header, info.Size, offset, length); err != nil {
		_ = body.Close()
		return nil, info, err
	}
	return body, info, nil
}

func checkAnswer(header http.Header, size, offset, length int64) error {
	switch {
	case size < 0:
		return errors.New("the answer has no content length")
	case length == wholeObject:
		return nil
	case !strings.HasPrefix(header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)):
		return fmt.Errorf("asked for bytes from %d on, got %q", offset, header.Get("Content-Range"))
	case size < length:
		return fmt.Errorf("bytes %d to %d of %s: %w", offset, offset+length, header.Get("Content-Range"), &sourceError{io.ErrUnexpectedEOF})
	case size > length:
		return fmt.Errorf("asked for %d bytes, got %d", length, size)
	default:
		return nil
	}
}

// s3Reader reads an object to its end. When a connection breaks off it asks for
// what is missing, of the same version of the object.
type s3Reader struct {
	ctx  context.Context
	s    *s3Bucket
	op   string
	key  Key
	etag string

	next, end int64 // what is still to be read
	body      io.ReadCloser
	fails     int   // since the last byte came
	err       error // the end
}

func (r *s3Reader) Read(p []byte) (int, error) {
	for {
		switch {
		case r.err != nil:
			return 0, r.err
		case r.ctx.Err() != nil: // net/http would still hand out what it has
			return 0, r.ctx.Err()
		case r.next == r.end:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.next)])
		if n > 0 {
			// An error with it comes again with the next Read.
			r.next += int64(n)
			r.fails = 0
			return n, nil
		}
		if err != nil {
			r.err = r.resume(err)
		}
	}
}

func (r *s3Reader) resume(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	_ = r.body.Close()
	r.body = http.NoBody
	for {
		r.fails++
		if err = r.s.again(r.ctx, r.op, r.fails, err); err != nil {
			if errors.Is(err, ErrPrecondition) {
				err = fmt.Errorf("it was replaced while it was read: %w", err)
			}
			return fmt.Errorf("read %s at byte %d of %d: %w", r.key, r.next, r.end, err)
		}
		body, _, openErr := r.s.open(r.ctx, r.key, r.next, r.end-r.next, r.etag)
		if openErr == nil {
			r.body = body
			return nil
		}
		err = openErr
	}
}

func (r *s3Reader) Close() error {
	r.err = errors.New("read of a closed object")
	return r.body.Close()
}
