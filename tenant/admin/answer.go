package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// answer is what a request is answered with.
type answer struct {
	status  int // 0: 200
	version int64
	body    any // nil: none
}

// maxBody is far more than any record may have.
const maxBody = 256 << 10

// Problem is an error as the API tells it.
type Problem struct {
	Kind    string `json:"kind"`
	ID      string `json:"id"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

var kinds = map[wire.Kind]string{
	wire.Internal: "internal", wire.Invalid: "invalid", wire.NotFound: "not_found", wire.Conflict: "conflict",
	wire.Changed: "changed", wire.Unavailable: "unavailable", wire.TooLarge: "too_large",
	wire.Forbidden: "forbidden", wire.Unauthenticated: "unauthenticated", wire.Limited: "limited",
}

// errUnavailable is what a client gets to hear of a bucket that is away.
var errUnavailable = wire.Errorf(wire.Unavailable, "err-registry-unavailable", "the change could not be stored, or what was asked for not be read; try again")

func (a *API) serve(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		res, err := h(r)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		if res.version != 0 {
			w.Header().Set("ETag", strconv.Quote(strconv.FormatInt(res.version, 10)))
		}
		if res.status == 0 {
			res.status = http.StatusOK
		}
		write(w, res.status, res.body)
	})
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Cache-Control", "no-store") // there may be a secret in it
	if body == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // the client has hung up: nobody to tell
}

// fail answers with an error. What is no UserError is the bucket's, or a
// defect; its text is for the log.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	var ue *wire.UserError
	if !errors.As(err, &ue) {
		a.logger.Error("request to the registry failed", "method", r.Method, "path", r.URL.Path, "err", err)
		ue = errUnavailable
		w.Header().Set("Retry-After", "5")
	}
	p := Problem{Kind: kinds[ue.Kind], ID: ue.ID, Message: ue.Msg}
	var fe *tenant.FieldError
	if errors.As(err, &fe) {
		p.Field = fe.Field
	}
	write(w, ue.Kind.HTTPStatus(), p)
}

func invalid(field, format string, args ...any) error {
	return &tenant.FieldError{Field: field, UserError: wire.Errorf(wire.Invalid, "err-field-invalid", "%s: %s", field, fmt.Sprintf(format, args...))}
}

// decode reads a body strictly: a field that is not known would be a setting
// that is not in force.
func decode(r *http.Request, into any) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return wire.Errorf(wire.TooLarge, "err-request-too-large", "the body is larger than %d bytes", maxBody)
		}
		return wire.Errorf(wire.Invalid, "err-body-read", "the body ended early")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err = dec.Decode(into)
	if err == nil && dec.More() {
		err = errors.New("there is more than one value")
	}
	var (
		fe    *tenant.FieldError
		typed *json.UnmarshalTypeError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fe):
		return fe
	case errors.As(err, &typed):
		return invalid(typed.Field, "want a %s, got a %s", typed.Type, typed.Value)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return invalid(strings.Trim(name, `"`), "there is no such field")
	}
	return invalid("body", "want one JSON object: %s", err)
}

// ifMatch is the version that the request means to change.
func ifMatch(r *http.Request) (int64, error) {
	tag := strings.TrimSpace(r.Header.Get("If-Match"))
	if tag == "" || tag == "*" {
		return tenant.Any, nil
	}
	text, err := strconv.Unquote(tag)
	if err == nil {
		var v int64
		if v, err = strconv.ParseInt(text, 10, 64); err == nil && v > 0 {
			return v, nil
		}
	}
	return 0, invalid("If-Match", "want the ETag of an earlier answer")
}

// timeParam reads a time: RFC 3339, or seconds since 1970.
func timeParam(r *http.Request, name string, otherwise time.Time) (time.Time, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	if s, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(s, 0).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, invalid(name, "want a time as RFC 3339 or in seconds since 1970, got %q", text)
	}
	return t.UTC(), nil
}

// period is what from and to say; a day if they do not.
func period(r *http.Request) (from, to time.Time, err error) {
	if to, err = timeParam(r, "to", time.Now().UTC()); err != nil {
		return from, to, err
	}
	if from, err = timeParam(r, "from", to.Add(-24*time.Hour)); err == nil && from.After(to) {
		err = invalid("from", "lies after to")
	}
	return from, to, err
}

const (
	defaultPage = 100
	maxPage     = 1000
)

func limitParam(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, invalid("limit", "want a number from 1 to %d", maxPage)
	}
	return n, nil
}
