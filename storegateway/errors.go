package storegateway

import (
	"errors"
	"time"

	"github.com/hearth-metrics/hearth/wire"
)

// retryAfter is what a client is told when stored data cannot be read now.
const retryAfter = 5 * time.Second

// errStopped is what a Gateway says that has not started or has stopped.
func errStopped() error {
	return unavailable("err-store-not-running", "stored data cannot be read while the server starts or stops, try again")
}

// errGone says that the bucket does not have a block, after a compaction for
// example. Whoever has named it looks for what has replaced it.
func errGone() error {
	return wire.Errorf(wire.NotFound, "err-store-block-gone", "some of the stored data was replaced while it was looked for, try again")
}

// errBlock says that a block that should be there cannot be read.
func errBlock() error {
	return unavailable("err-store-block-unavailable", "some of the stored data that this query needs cannot be read now, try again")
}

// errBusy says that more questions wait here than will be answered soon.
func errBusy() error {
	return unavailable("err-store-busy", "too many queries of stored data are waiting, try again")
}

func unavailable(id, msg string) error {
	e := wire.Errorf(wire.Unavailable, id, "%s", msg)
	e.RetryAfter = retryAfter
	return e
}

func errChunkBytes(limit int64) error {
	return wire.Errorf(wire.Limited, "err-max-chunk-bytes",
		"query needs more than %d bytes of chunks from stored blocks, the limit (max_chunk_bytes_per_query). Select fewer series or a shorter time, or ask for a higher limit", limit)
}

func errLabelBytes() error {
	return wire.Errorf(wire.Limited, "err-max-label-bytes",
		"stored blocks have more than %d bytes of label names or values that match. Narrow the selector or the time, or ask for fewer with limit", maxLabelBytes)
}

func isUserError(err error) bool {
	var ue *wire.UserError
	return errors.As(err, &ue)
}

func (m *metrics) countFailure(err error) {
	var ue *wire.UserError
	if errors.As(err, &ue) {
		m.failures.WithLabelValues(ue.ID).Inc()
	}
}
