package importer

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// upload is the block that a request is about.
type upload struct {
	tenant tenant.ID
	home   bucket.Key
	id     ulid.ULID
	limits *tenant.Limits
}

func (u upload) key(path string) bucket.Key { return bucket.BlockKey(u.home, u.id, path) }

// RegisterRoutes adds Mimir's API for uploads. Requests carry the tenant in
// their context.
func (i *Importer) RegisterRoutes(r *mux.Router) {
	const base = "/api/v1/upload/block/{block}"
	r.Path(base + "/start").Methods(http.MethodPost).HandlerFunc(i.door(i.serveStart))
	r.Path(base + "/files").Methods(http.MethodPost).HandlerFunc(i.door(i.serveFile))
	r.Path(base + "/finish").Methods(http.MethodPost).HandlerFunc(i.door(i.serveFinish))
	r.Path(base + "/check").Methods(http.MethodGet).HandlerFunc(i.door(i.serveCheck))
}

// door finds out which block of whom a request is about, and answers errors.
func (i *Importer) door(h func(http.ResponseWriter, *http.Request, upload) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := tenant.FromContext(r.Context())
		if err == nil {
			err = i.enter(w, r, id, h)
		}
		if err == nil {
			return
		}
		if wire.KindOf(err) == wire.Internal {
			i.logger.Error("upload of a block not served", "tenant", id, "block", mux.Vars(r)["block"], "err", err)
		}
		wire.WriteHTTPError(w, err)
	}
}

func (i *Importer) enter(w http.ResponseWriter, r *http.Request, id tenant.ID, h func(http.ResponseWriter, *http.Request, upload) error) error {
	limits := i.limits(id)
	if !limits.BlockUploadEnabled {
		return wire.Errorf(wire.Invalid, "err-block-upload-disabled", "this tenant may not upload blocks (limit block_upload_enabled)")
	}
	name := mux.Vars(r)["block"]
	blockID, ok := bucket.ParseBlockID(name)
	if !ok {
		return errInvalid("%q is not the name of a block, a ULID of 26 capital letters and digits", name)
	}
	return h(w, r, upload{id, bucket.TenantHome(string(id)), blockID, limits})
}

func (i *Importer) serveStart(w http.ResponseWriter, r *http.Request, u upload) error {
	var meta bucket.Meta
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMeta)).Decode(&meta); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return wire.Errorf(wire.TooLarge, "err-block-too-large", "meta.json is larger than %d bytes", large.Limit)
		}
		return errInvalid("meta.json cannot be read: %s", err)
	}
	present, err := i.start(r.Context(), u, &meta)
	if err != nil {
		return err
	}
	answer(w, struct {
		Present []string `json:"present"` // files that need not be sent again
	}{present})
	return nil
}

func (i *Importer) serveFile(w http.ResponseWriter, r *http.Request, u upload) error {
	return i.receive(r.Context(), u, r.URL.Query().Get("path"), body{w, r})
}

func (i *Importer) serveFinish(_ http.ResponseWriter, r *http.Request, u upload) error {
	return i.finish(r.Context(), u)
}

func (i *Importer) serveCheck(w http.ResponseWriter, r *http.Request, u upload) error {
	s, err := i.look(r.Context(), u)
	if err != nil {
		return err
	}
	answer(w, struct {
		Result phase  `json:"result"`
		Error  string `json:"error,omitempty"`
	}{s.phase, s.failure})
	return nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has hung up: nobody to tell
}

func errInvalid(format string, args ...any) error {
	return wire.Errorf(wire.Invalid, "err-block-invalid", format, args...)
}
