package bucket

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// s3Bounds is how long and how often an S3 service is waited for.
type s3Bounds struct {
	tries   int           // of each request
	backoff time.Duration // after the first try; doubles up to maxBackoff
	idle    time.Duration // a connection on which no byte moves for so long is dead
	part    int64         // bytes; what is larger is sent in parts of this size
	slowest int64         // bytes a second; an upload that is slower is broken off
	page    int           // keys of a listing in one answer
}

const maxBackoff = 5 * time.Second

func defaultS3Bounds() s3Bounds {
	return s3Bounds{tries: 6, backoff: 200 * time.Millisecond, idle: time.Minute, part: 64 << 20, slowest: 64 << 10, page: 1000}
}

// s3Bucket is a Bucket in an S3-compatible service.
//
// The client library's own retries are off, since what is safe to repeat
// differs: the body of a Put is read anew from the start (s3put.go), a Get that
// breaks off goes on where it was (s3get.go), a listing after the last key
// (s3list.go), and a conditional Put whose answer was lost asks whether it was
// itself that won.
type s3Bucket struct {
	core      *minio.Core
	transport *http.Transport
	cfg       S3Config
	bounds    s3Bounds
	logger    *slog.Logger
	m         *metrics

	// seen is set when the service has shown that the bucket exists.
	seen atomic.Bool
}

func newS3(cfg S3Config, bounds s3Bounds, logger *slog.Logger, m *metrics) (*s3Bucket, error) {
	transport, err := s3Transport(!cfg.Insecure, bounds.idle)
	if err != nil {
		return nil, err
	}
	core, err := minio.NewCore(cfg.Endpoint, &minio.Options{
		Creds:      s3Credentials(cfg, transport),
		Secure:     !cfg.Insecure,
		Region:     cfg.Region,
		Transport:  &billed{transport, m},
		MaxRetries: 1,
	})
	if err != nil {
		return nil, err
	}
	return &s3Bucket{core: core, transport: transport, cfg: cfg, bounds: bounds, logger: logger, m: m}, nil
}

func s3Credentials(cfg S3Config, transport http.RoundTripper) *credentials.Credentials {
	if cfg.AccessKeyID != "" {
		return credentials.NewStaticV4(cfg.AccessKeyID, string(cfg.SecretAccessKey), "")
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Transport: transport, Timeout: 10 * time.Second}},
	})
}

func s3Transport(secure bool, idle time.Duration) (*http.Transport, error) {
	t, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: min(10*time.Second, idle), KeepAlive: 30 * time.Second}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &idleConn{conn, idle}, nil
	}
	t.ResponseHeaderTimeout = idle
	t.IdleConnTimeout = idle / 2
	t.MaxIdleConnsPerHost = 64
	return t, nil
}

// idleConn fails when no byte has moved for a while. Writing extends the
// reader's deadline too: net/http waits for the answer while it still sends.
type idleConn struct {
	net.Conn
	idle time.Duration
}

func (c *idleConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *idleConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close gives back idle connections.
func (s *s3Bucket) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// name is a key's name in the S3 bucket, and key the inverse.
func (s *s3Bucket) name(key Key) string {
	if s.cfg.Prefix == "" {
		return string(key)
	}
	return s.cfg.Prefix + "/" + string(key)
}

func (s *s3Bucket) key(name string) Key {
	if s.cfg.Prefix == "" {
		return Key(name)
	}
	return Key(strings.TrimPrefix(name, s.cfg.Prefix+"/"))
}

// try calls f until it succeeds, the error is one that stays, or the tries or
// the context end.
func (s *s3Bucket) try(ctx context.Context, op string, f func(context.Context) error) error {
	for n := 1; ; n++ {
		err := f(ctx)
		if err == nil {
			s.seen.Store(true)
			return nil
		}
		if err := s.again(ctx, op, n, err); err != nil {
			return err
		}
	}
}

// tryWithin bounds each try by a time that fits the bytes to send.
func (s *s3Bucket) tryWithin(ctx context.Context, op string, size int64, f func(context.Context) error) error {
	limit := s.bounds.idle + time.Duration(size/s.bounds.slowest)*time.Second
	return s.try(ctx, op, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return f(ctx)
	})
}

// again waits before a request is sent once more, after n tries, or returns
// the error to give up with.
func (s *s3Bucket) again(ctx context.Context, op string, n int, err error) error {
	if ended := ctx.Err(); ended != nil {
		if errors.Is(err, ended) {
			return ended
		}
		return fmt.Errorf("%w after %d tries, the last: %v", ended, n, s.explain(err)) //nolint:errorlint // why it ended decides
	}
	if n >= s.bounds.tries || !retryable(err) {
		return s.explain(err)
	}
	s.m.retries.WithLabelValues(op).Inc()
	s.logger.Debug("s3 request failed, will retry", "operation", op, "attempt", n, "err", err)
	return pause(ctx, min(s.bounds.backoff<<(n-1), maxBackoff))
}

// retryable tells a service in trouble from a request that will fail again.
func retryable(err error) bool {
	var answer minio.ErrorResponse
	var source *sourceError
	var unknownCA x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var noTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &source), errors.As(err, &unknownCA), errors.As(err, &wrongName), errors.As(err, &noTLS):
		return false
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrPrecondition):
		return false
	case !errors.As(err, &answer):
		return true // the network, or an answer that breaks off
	case answer.StatusCode >= 500, answer.StatusCode == http.StatusTooManyRequests, answer.StatusCode == http.StatusRequestTimeout:
		return answer.StatusCode != http.StatusNotImplemented
	}
	switch answer.Code {
	case "RequestTimeout", "SlowDown", "InternalError", "Throttling", "ThrottlingException", // some services say so with 400
		"ConditionalRequestConflict", "OperationAborted", // two writes at once, the end is open
		"AuthorizationHeaderMalformed", "ExpiredToken": // the region is known now; the credentials are fetched anew
		return true
	default:
		return false
	}
}

// explain turns an answer into one of our sentinels, or a sentence that says
// what to look at. It never holds the secret.
func (s *s3Bucket) explain(err error) error {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return fmt.Errorf("s3 bucket %s at %s: %w", s.cfg.Bucket, s.cfg.Endpoint, err)
	}
	hint := ""
	switch answer.Code {
	case "NoSuchKey":
		return ErrNotFound
	case "PreconditionFailed", "ConditionalRequestConflict":
		return ErrPrecondition
	case "NoSuchBucket":
		hint = ": create it, or correct bucket.s3.bucket"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "XAdminUserNotFound":
		hint = ": check bucket.s3.access_key_id and bucket.s3.secret_access_key"
	case "AccessDenied":
		hint = ": the access key may not do this, or there is none"
	}
	return fmt.Errorf("s3 bucket %s at %s: status %d %s (%w)%s", s.cfg.Bucket, s.cfg.Endpoint, answer.StatusCode, answer.Code, answer, hint)
}

// Stat implements Bucket.
func (s *s3Bucket) Stat(ctx context.Context, key Key) (Object, error) {
	info, err := s.stat(ctx, key)
	if err != nil {
		return Object{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return s.object(info), nil
}

func (s *s3Bucket) object(info minio.ObjectInfo) Object {
	return Object{Key: s.key(info.Key), Size: info.Size, ETag: info.ETag, Modified: info.LastModified}
}

func (s *s3Bucket) stat(ctx context.Context, key Key) (info minio.ObjectInfo, err error) {
	if err := key.Validate(); err != nil {
		return info, err
	}
	err = s.tryWithin(ctx, opStat, 0, func(ctx context.Context) error {
		info, err = s.core.StatObject(ctx, s.cfg.Bucket, s.name(key), minio.StatObjectOptions{})
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return info, s.bucketExists(ctx, err)
	}
	return info, err
}

// bucketExists makes sure that "not found" means the object. The answer to
// HEAD has no text, so a missing bucket looks the same.
func (s *s3Bucket) bucketExists(ctx context.Context, notFound error) error {
	if s.seen.Load() {
		return notFound
	}
	err := s.tryWithin(ctx, opStat, 0, func(ctx context.Context) error {
		exists, err := s.core.BucketExists(ctx, s.cfg.Bucket)
		if err == nil && !exists {
			err = minio.ErrorResponse{StatusCode: http.StatusNotFound, Code: "NoSuchBucket", Message: "the bucket does not exist"}
		}
		return err
	})
	if err != nil {
		return err
	}
	return notFound
}

// Delete implements Bucket.
func (s *s3Bucket) Delete(ctx context.Context, key Key) error {
	if err := key.Validate(); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	err := s.tryWithin(ctx, opDelete, 0, func(ctx context.Context) error {
		return s.core.RemoveObject(ctx, s.cfg.Bucket, s.name(key), minio.RemoveObjectOptions{})
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}
