// Package bucket is REST: what lies in object storage, and how it is laid out.
//
// A Bucket is a flat map from keys to immutable objects, in S3 (s3.go) or in a
// folder (folder.go); both promise the same and run the same acceptance test.
// On top of it: the layout of blocks and markers (layout.go), the hidden label
// of pooled blocks (pool.go), upload of a block with meta.json last
// (upload.go), reading one (read.go), and the index of a tenant's blocks
// (index.go). Nothing here knows of tenants' limits or of time series.
package bucket

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Key names an object: segments of a path joined by "/", no leading slash, no
// "." or ".." segment. A key is never also the folder of another key.
type Key string

// Sentinel errors of every Bucket. Wrapped with the operation and the key.
var (
	// ErrNotFound: there is no object with that key.
	ErrNotFound = errors.New("object not found")
	// ErrPrecondition: a conditional Put found another version than it asked for.
	ErrPrecondition = errors.New("object changed meanwhile")
)

// Object describes an object. ETag changes whenever the content does.
type Object struct {
	Key      Key
	Size     int64 // bytes
	ETag     string
	Modified time.Time
}

// Condition guards a Put. The zero value overwrites whatever is there.
type Condition struct {
	IfAbsent bool   // store only if no object has the key
	IfMatch  string // store only if the object has this ETag
}

// Bucket is object storage. Implementations are safe for concurrent use,
// bound every wait by the context, retry what may be retried, and count
// requests by operation. An object appears whole or not at all, and is read by
// everyone as soon as Put has returned.
type Bucket interface {
	// Get opens an object for reading. The caller closes it.
	Get(ctx context.Context, key Key) (io.ReadCloser, Object, error)

	// GetRange opens length bytes of an object from offset on. Fewer bytes are
	// an io.ErrUnexpectedEOF, never a silent short answer. The caller closes it.
	GetRange(ctx context.Context, key Key, offset, length int64) (io.ReadCloser, error)

	// Put stores size bytes of r under key and returns the new ETag. r is read
	// more than once on retries, so it can seek. Large objects are sent in
	// parts. A condition that does not hold is an ErrPrecondition.
	Put(ctx context.Context, key Key, r io.ReadSeeker, size int64, cond Condition) (etag string, err error)

	// Stat describes an object.
	Stat(ctx context.Context, key Key) (Object, error)

	// List yields what is directly below prefix (which is "" or ends in "/"),
	// in order of keys: objects, and folders as keys that end in "/". With
	// recursive it yields all objects below instead and no folders.
	List(ctx context.Context, prefix Key, recursive bool) iter.Seq2[Object, error]

	// Delete removes an object. Deleting what is not there is not an error.
	Delete(ctx context.Context, key Key) error
}
