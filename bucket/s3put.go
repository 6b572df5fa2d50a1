package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

const (
	// maxParts is how many parts S3 allows.
	maxParts = 10_000

	// putParallel is how many parts are sent at once where the source can be
	// read at several places.
	putParallel = 4

	// putHeader is metadata that tells one Put from another.
	putHeader = "Hearth-Put"
)

// Put implements Bucket.
func (s *s3Bucket) Put(ctx context.Context, key Key, r io.ReadSeeker, size int64, cond Condition) (string, error) {
	etag, err := s.put(ctx, key, r, size, cond)
	if err != nil {
		return "", fmt.Errorf("put %s: %w", key, err)
	}
	return etag, nil
}

func (s *s3Bucket) put(ctx context.Context, key Key, r io.ReadSeeker, size int64, cond Condition) (string, error) {
	if err := key.Validate(); err != nil {
		return "", err
	}
	src, err := newSource(r)
	if err != nil {
		return "", err
	}
	p := &s3Put{s: s, key: key, src: src, size: size, id: rand.Text()}
	p.opts.ContentType = "application/octet-stream"
	if cond.IfAbsent {
		p.opts.SetMatchETagExcept("*")
	}
	if cond.IfMatch != "" {
		p.opts.SetMatchETag(cond.IfMatch)
	}
	etag, err := p.send(ctx)
	if err != nil && cond.IfMatch != "" && errors.Is(err, ErrNotFound) {
		err = ErrPrecondition // it is gone, so it does not match
	}
	return etag, err
}

// s3Put is one Put, in one request or in parts.
type s3Put struct {
	s    *s3Bucket
	key  Key
	src  *source
	size int64
	id   string // in the object's metadata
	opts minio.PutObjectOptions
}

func (p *s3Put) send(ctx context.Context) (string, error) {
	if p.size > p.s.bounds.part {
		return p.sendParts(ctx)
	}
	opts := p.opts
	opts.UserMetadata = map[string]string{putHeader: p.id}
	// The library would put the signature of no bytes where a body has none.
	opts.DisableContentSha256 = p.size == 0
	var info minio.UploadInfo
	return p.finish(ctx, p.size, func(ctx context.Context) (string, error) {
		err := p.src.section(0, p.size, func(r io.Reader) (err error) {
			info, err = p.s.core.PutObject(ctx, p.s.cfg.Bucket, p.s.name(p.key), r, p.size, "", "", opts)
			return err
		})
		return info.ETag, err
	})
}

// finish sends the request that makes the object appear. When an earlier try
// had an effect but its answer was lost, the service refuses the next one,
// because the condition does not hold any more or the parts are used up; then
// the object itself says whether it is ours.
func (p *s3Put) finish(ctx context.Context, size int64, f func(context.Context) (string, error)) (etag string, err error) {
	tries := 0
	err = p.s.tryWithin(ctx, opPut, size, func(ctx context.Context) (err error) {
		tries++
		etag, err = f(ctx)
		return err
	})
	if err == nil || tries == 1 || !usedUp(err) {
		return etag, err
	}
	info, statErr := p.s.stat(ctx, p.key)
	if statErr == nil && info.UserMetadata[putHeader] == p.id {
		return info.ETag, nil
	}
	return "", err
}

func usedUp(err error) bool {
	var answer minio.ErrorResponse
	return errors.Is(err, ErrPrecondition) || errors.As(err, &answer) && answer.Code == "NoSuchUpload"
}

// sendParts uploads in parts straight from the source, so memory does not grow
// with the object.
func (p *s3Put) sendParts(ctx context.Context) (etag string, err error) {
	var upload string
	err = p.s.tryWithin(ctx, opPut, 0, func(ctx context.Context) (err error) {
		upload, err = p.s.core.NewMultipartUpload(ctx, p.s.cfg.Bucket, p.s.name(p.key), minio.PutObjectOptions{
			ContentType:  p.opts.ContentType,
			UserMetadata: map[string]string{putHeader: p.id},
		})
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			p.abort(ctx, upload)
		}
	}()
	parts, err := p.uploadParts(ctx, upload)
	if err != nil {
		return "", err
	}
	return p.finish(ctx, 0, func(ctx context.Context) (string, error) {
		info, err := p.s.core.CompleteMultipartUpload(ctx, p.s.cfg.Bucket, p.s.name(p.key), upload, parts, p.opts)
		return info.ETag, err
	})
}

func (p *s3Put) uploadParts(ctx context.Context, upload string) ([]minio.CompletePart, error) {
	size := max(p.s.bounds.part, (p.size+maxParts-1)/maxParts)
	parts := make([]minio.CompletePart, (p.size+size-1)/size)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.src.parallel())
	for i := range parts {
		g.Go(func() error {
			offset := int64(i) * size
			part, err := p.uploadPart(gctx, upload, i+1, offset, min(size, p.size-offset))
			parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: part.ETag}
			return err
		})
	}
	return parts, g.Wait()
}

func (p *s3Put) uploadPart(ctx context.Context, upload string, number int, offset, size int64) (part minio.ObjectPart, err error) {
	err = p.s.tryWithin(ctx, opPut, size, func(ctx context.Context) error {
		return p.src.section(offset, size, func(r io.Reader) (err error) {
			part, err = p.s.core.PutObjectPart(ctx, p.s.cfg.Bucket, p.s.name(p.key), upload, number, r, size, minio.PutObjectPartOptions{})
			return err
		})
	})
	return part, err
}

// abort gives back the room of the parts. It is tried even when the caller has
// given up, for a short while; what it misses, the bucket's life-cycle rule
// for incomplete uploads removes.
func (p *s3Put) abort(ctx context.Context, upload string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(p.s.bounds.idle, maxBackoff))
	defer cancel()
	err := p.s.core.AbortMultipartUpload(ctx, p.s.cfg.Bucket, p.s.name(p.key), upload)
	if err != nil && !usedUp(err) {
		p.s.logger.Warn("parts of an upload could not be removed", "key", string(p.key), "upload", upload, "err", err)
	}
}

// source is what a Put sends, from where the caller's reader stood.
type source struct {
	base int64
	at   io.ReaderAt // nil: use seek

	mu   sync.Mutex
	seek io.ReadSeeker
}

func newSource(r io.ReadSeeker) (*source, error) {
	base, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	at, _ := r.(io.ReaderAt)
	return &source{base: base, at: at, seek: r}, nil
}

func (s *source) parallel() int {
	if s.at == nil {
		return 1
	}
	return putParallel
}

// ReadAt implements io.ReaderAt over a source that can only seek.
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if s.at != nil {
		return s.at.ReadAt(p, s.base+off)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.seek.Seek(s.base+off, io.SeekStart); err != nil {
		return 0, err
	}
	return io.ReadFull(s.seek, p)
}

// section gives use a reader of a part of the source that ends with it: the
// transport may still send a request whose answer has come, while the next try
// begins, and after Put the source is the caller's again.
func (s *source) section(offset, size int64, use func(io.Reader) error) error {
	r := &sectionReader{r: io.NewSectionReader(s, offset, size), left: size}
	err := use(r)
	if failed := r.end(); failed != nil {
		return &sourceError{failed}
	}
	return err
}

type sectionReader struct {
	mu    sync.Mutex // held while reading, so end waits for it
	r     *io.SectionReader
	left  int64
	ended bool
	err   error // of the source
}

func (r *sectionReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.r.Read(p)
	r.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && r.left > 0:
		r.err = io.ErrUnexpectedEOF
		return n, r.err
	case err != nil && !errors.Is(err, io.EOF):
		r.err = err
	}
	return n, err
}

func (r *sectionReader) end() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	return r.err
}

// sourceError is an error that no retry mends: the caller's reader failed, or
// the object is shorter than the range asked for.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }
