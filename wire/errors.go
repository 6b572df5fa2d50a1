package wire

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Kind says who is at fault and what a caller may do about it. Code decides by
// kind; HTTP and gRPC codes are derived from it at the doors and nowhere else.
type Kind uint8

// The kinds of error. The zero value is Internal: an error that says nothing
// about itself is our fault.
const (
	Internal        Kind = iota // a defect or a broken dependency; retry may help
	Invalid                     // the request is wrong and will be wrong again
	Limited                     // a tenant's limit; later or smaller may pass
	NotFound                    // what was asked for does not exist
	Unavailable                 // we cannot serve now; retry after a while
	TooLarge                    // the body or the answer is over a size limit
	Unsupported                 // a media type or encoding we do not speak
	Unauthenticated             // who is asking is not known
	Forbidden                   // who is asking may not
	Conflict                    // what is there already stands against it
	Changed                     // it is not any more what the request says it is
	Expired                     // it is right, but too old to be of use
)

// UserError is an error that a tenant may see: what happened, the number, the
// limit, what to change, and a stable id that has an entry in the runbook
// (deploy/runbook.md). It says nothing about other tenants or the cluster.
type UserError struct {
	Kind       Kind
	ID         string        // for example "err-max-series", never renamed
	Msg        string        // a sentence without the id
	RetryAfter time.Duration // for Limited and Unavailable; 0: no promise
}

// Errorf makes a UserError of a kind with its stable id.
func Errorf(k Kind, id, format string, args ...any) *UserError {
	return &UserError{Kind: k, ID: id, Msg: fmt.Sprintf(format, args...)}
}

// About is the error with what it is about in front of its sentence.
func (e *UserError) About(what string) *UserError {
	about := *e
	about.Msg = what + ": " + e.Msg
	return &about
}

// Error is the sentence with the id behind it.
func (e *UserError) Error() string { return e.Msg + " (" + e.ID + ")" }

// KindOf finds the kind of an error anywhere in its chain. A context that was
// cancelled or ran out is Unavailable; anything unknown is Internal.
func KindOf(err error) Kind {
	var ue *UserError
	switch {
	case errors.As(err, &ue):
		return ue.Kind
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	default:
		return Internal
	}
}

var httpStatus = [...]int{
	Internal:        http.StatusInternalServerError,
	Invalid:         http.StatusBadRequest,
	Limited:         http.StatusTooManyRequests,
	NotFound:        http.StatusNotFound,
	Unavailable:     http.StatusServiceUnavailable,
	TooLarge:        http.StatusRequestEntityTooLarge,
	Unsupported:     http.StatusUnsupportedMediaType,
	Unauthenticated: http.StatusUnauthorized,
	Forbidden:       http.StatusForbidden,
	Conflict:        http.StatusConflict,
	Changed:         http.StatusPreconditionFailed,
	Expired:         http.StatusUnprocessableEntity,
}

// HTTPStatus is the status code that a kind of error is answered with.
func (k Kind) HTTPStatus() int { return httpStatus[k] }

// WriteHTTPError answers a request with an error as plain text, its kind's
// status and, where the error names one, Retry-After in whole seconds.
// The text of an internal error stays inside.
func WriteHTTPError(w http.ResponseWriter, err error) {
	kind, msg := KindOf(err), err.Error()
	if kind == Internal {
		msg = "internal error, see the server's log"
	}
	var ue *UserError
	if errors.As(err, &ue) {
		msg = ue.Error()
		if ue.RetryAfter > 0 {
			secs := int64((ue.RetryAfter + time.Second - 1) / time.Second)
			w.Header().Set("Retry-After", strconv.FormatInt(secs, 10))
		}
	}
	http.Error(w, msg, kind.HTTPStatus())
}
