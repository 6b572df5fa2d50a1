package importer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/wire"
)

// phase is how far an upload is, in Mimir's words.
type phase string

const (
	uploading  phase = "uploading"
	validating phase = "validating"
	complete   phase = "complete"
	failed     phase = "failed"
)

// A validation tells the bucket that it lives. One that has not done so for
// staleAfter is given up: the block is as if it was not finished.
const (
	beatEvery  = 30 * time.Second
	staleAfter = 5 * time.Minute
)

// state is how far an upload is.
type state struct {
	phase   phase
	meta    *bucket.Meta // what meta.json will be; nil when complete
	failure string       // when failed
}

// validation is bucket.ValidationFile, as Mimir has it.
type validation struct {
	LastUpdate int64  `json:"last_update"` // ms
	Error      string `json:"error,omitempty"`
}

// look finds out how far an upload is.
func (i *Importer) look(ctx context.Context, u upload) (*state, error) {
	s, err := i.underWay(ctx, u)
	switch {
	case err == nil && s.phase != uploading:
		return s, nil
	case err != nil && !errors.Is(err, bucket.ErrNotFound):
		return nil, err
	}
	// Also of one that is under way: who published it may not have come to
	// take its state away.
	x, _, indexErr := bucket.ReadIndex(ctx, i.bucket, u.home)
	switch {
	case indexErr != nil:
		return nil, indexErr
	case x.Block(u.id) != nil:
		return &state{phase: complete}, nil
	case err != nil:
		return nil, wire.Errorf(wire.NotFound, "err-block-upload-not-started", "the upload of block %s has not been started, or nothing has come for a day", u.id)
	default:
		return s, nil
	}
}

// underWay is look for uploads that are not complete.
func (i *Importer) underWay(ctx context.Context, u upload) (*state, error) {
	content, _, err := bucket.ReadAll(ctx, i.bucket, u.key(bucket.UploadingMetaFile))
	if err != nil {
		return nil, err
	}
	s := &state{phase: uploading, meta: &bucket.Meta{}}
	if err := json.Unmarshal(content, s.meta); err != nil {
		return nil, fmt.Errorf("parse %s: %w", u.key(bucket.UploadingMetaFile), err)
	}
	content, _, err = bucket.ReadAll(ctx, i.bucket, u.key(bucket.ValidationFile))
	if errors.Is(err, bucket.ErrNotFound) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	var v validation
	if err := json.Unmarshal(content, &v); err != nil {
		return nil, fmt.Errorf("parse %s: %w", u.key(bucket.ValidationFile), err)
	}
	switch {
	case v.Error != "":
		s.phase, s.failure = failed, v.Error
	case time.Since(time.UnixMilli(v.LastUpdate)) < staleAfter:
		s.phase = validating
	}
	return s, nil
}

// open is the state of an upload that takes files; an error if it does not.
func (i *Importer) open(ctx context.Context, u upload) (*state, error) {
	s, err := i.underWay(ctx, u)
	if errors.Is(err, bucket.ErrNotFound) {
		s, err = i.look(ctx, u)
	}
	if err != nil {
		return nil, err
	}
	return s, s.sendable(u)
}

// sendable is an error where files are not taken, and nothing can be finished.
func (s *state) sendable(u upload) error {
	switch s.phase {
	case complete:
		return errExists(u)
	case validating:
		return errInValidation(u)
	case failed:
		return errInvalid("block %s was refused: %s; start its upload again to replace its files", u.id, s.failure)
	default:
		return nil
	}
}

func errExists(u upload) error {
	return wire.Errorf(wire.Conflict, "err-block-exists", "block %s is there already", u.id)
}

func errInValidation(u upload) error {
	err := wire.Errorf(wire.Limited, "err-block-upload-busy", "block %s is being verified; wait until that has ended", u.id)
	err.RetryAfter = beatEvery
	return err
}

func (i *Importer) putJSON(ctx context.Context, key bucket.Key, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	_, err = i.bucket.Put(ctx, key, bytes.NewReader(content), int64(len(content)), bucket.Condition{})
	return err
}
