package wire

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var grpcCode = [...]codes.Code{
	Internal:        codes.Internal,
	Invalid:         codes.InvalidArgument,
	Limited:         codes.ResourceExhausted,
	NotFound:        codes.NotFound,
	Unavailable:     codes.Unavailable,
	TooLarge:        codes.OutOfRange,
	Unsupported:     codes.Unimplemented,
	Unauthenticated: codes.Unauthenticated,
	Forbidden:       codes.PermissionDenied,
	Conflict:        codes.AlreadyExists,
	Changed:         codes.FailedPrecondition,
	Expired:         codes.FailedPrecondition,
}

// errorDomain marks the details of errors that are ours.
const errorDomain = "hearth"

// ToStatus makes of an error what another member can be told: of a UserError
// all of it, of others the code and the text, which is for the log there.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var ue *UserError
	if !errors.As(err, &ue) {
		switch {
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, err.Error())
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, err.Error())
		}
		return status.Error(grpcCode[KindOf(err)], err.Error())
	}
	// With bytes that are not UTF-8 all of it would be lost on the way.
	s, detailErr := status.New(grpcCode[ue.Kind], strings.ToValidUTF8(ue.Msg, "\uFFFD")).WithDetails(&errdetails.ErrorInfo{
		Domain: errorDomain, Reason: ue.ID,
		Metadata: map[string]string{"kind": strconv.Itoa(int(ue.Kind)), "retry_after_ms": strconv.FormatInt(ue.RetryAfter.Milliseconds(), 10)},
	})
	if detailErr != nil {
		return status.Error(grpcCode[ue.Kind], ue.Error())
	}
	return s.Err()
}

// FromStatus is the other direction: the UserError that another member has
// returned, or an error that says nothing to tenants.
func FromStatus(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	for _, d := range s.Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != errorDomain {
			continue
		}
		kind, _ := strconv.Atoi(info.GetMetadata()["kind"]) // 0, internal, if it is not there
		ms, _ := strconv.ParseInt(info.GetMetadata()["retry_after_ms"], 10, 64)
		if kind < 0 || kind >= len(grpcCode) {
			kind = int(Internal)
		}
		return &UserError{Kind: Kind(kind), ID: info.GetReason(), Msg: s.Message(), RetryAfter: time.Duration(ms) * time.Millisecond}
	}
	switch s.Code() {
	case codes.Canceled:
		return errors.Join(err, context.Canceled)
	case codes.DeadlineExceeded:
		return errors.Join(err, context.DeadlineExceeded)
	default:
		return err
	}
}
