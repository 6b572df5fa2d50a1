package importer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	validationTimeout = 2 * time.Hour
	goodbyeTimeout    = 10 * time.Second // for the last word of a validation that is broken off
)

// badBlock is what is wrong with a block that cannot be published.
type badBlock struct{ err error }

func (b *badBlock) Error() string { return b.err.Error() }
func (b *badBlock) Unwrap() error { return b.err }

// finish has a block verified that has been sent, and published when all is
// well. It does not wait for that; look tells how it goes. For a block that is
// being verified already it does nothing.
func (i *Importer) finish(ctx context.Context, u upload) error {
	s, err := i.look(ctx, u)
	if err != nil {
		return err
	}
	if s.phase == validating {
		return nil
	}
	if err := s.sendable(u); err != nil {
		return err
	}
	if err := i.allThere(ctx, u, s.meta); err != nil {
		return err
	}
	size := int64(0)
	for _, f := range s.meta.Thanos.Files {
		size += f.SizeBytes
	}
	if free, ok := block.FreeDisk(i.dir); ok && free < size+spareDisk {
		return errNoRoom()
	}
	select {
	case i.validating <- struct{}{}:
	default:
		return errBusy("too many blocks are being verified")
	}
	if err := i.beat(ctx, u); err != nil {
		<-i.validating
		return err
	}
	return i.validateBehind(u, s.meta)
}

// validateBehind starts a validation, in a slot that is taken.
func (i *Importer) validateBehind(u upload, meta *bucket.Meta) error {
	started := i.behind(func() {
		defer func() { <-i.validating }()
		i.metrics.checking.Inc()
		defer i.metrics.checking.Dec()
		i.validate(u, meta)
	})
	if !started {
		<-i.validating
		err := wire.Errorf(wire.Unavailable, "err-not-ready", "this process is stopping, ask again")
		err.RetryAfter = beatEvery
		return err
	}
	return nil
}

func (i *Importer) allThere(ctx context.Context, u upload, meta *bucket.Meta) error {
	present, err := i.present(ctx, u, meta)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, path := range present {
		there[path] = true
	}
	for _, f := range meta.Thanos.Files {
		if !there[f.RelPath] {
			return errInvalid("%s has not been sent", f.RelPath)
		}
	}
	return nil
}

// beat tells that the validation of a block is going on.
func (i *Importer) beat(ctx context.Context, u upload) error {
	return i.putJSON(ctx, u.key(bucket.ValidationFile), validation{LastUpdate: time.Now().UnixMilli()})
}

// validate verifies a block, publishes it, and leaves behind how that ended.
func (i *Importer) validate(u upload, meta *bucket.Meta) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(i.base, validationTimeout)
	defer cancel()
	quiet := i.keepBeating(ctx, u)
	err := i.verify(ctx, u, meta)
	quiet()
	if err == nil {
		err = i.publish(ctx, u, meta)
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
	defer done()
	var bad *badBlock
	switch {
	case err == nil:
		i.metrics.blocks.WithLabelValues("published").Inc()
		i.logger.Info("uploaded block published", "tenant", u.tenant, "block", u.id, "series", meta.Stats.NumSeries, "samples", meta.Stats.NumSamples, "dur", time.Since(began))
		i.forget(last, u)
	case errors.As(err, &bad):
		i.metrics.blocks.WithLabelValues("refused").Inc()
		i.logger.Warn("uploaded block is refused", "tenant", u.tenant, "block", u.id, "err", bad.err)
		if err := i.putJSON(last, u.key(bucket.ValidationFile), validation{LastUpdate: time.Now().UnixMilli(), Error: bad.Error()}); err != nil {
			i.logger.Warn("refusal of a block not stored, its upload can be finished again", "tenant", u.tenant, "block", u.id, "err", err)
		}
	default:
		i.metrics.blocks.WithLabelValues("interrupted").Inc()
		i.logger.Warn("uploaded block could not be verified, its upload can be finished again", "tenant", u.tenant, "block", u.id, "err", err)
		i.forgetFile(last, u, bucket.ValidationFile)
	}
}

// keepBeating tells that the validation goes on until quiet is called.
func (i *Importer) keepBeating(ctx context.Context, u upload) (quiet func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := i.beat(ctx, u); err != nil && ctx.Err() == nil {
					i.logger.Warn("heartbeat of a validation not stored, will retry", "tenant", u.tenant, "block", u.id, "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// verify fetches what lies in the bucket and reads all of it. meta.Stats is
// what was found.
func (i *Importer) verify(ctx context.Context, u upload, meta *bucket.Meta) error {
	before, err := i.versions(ctx, u)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(i.dir, "block-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // else the next start does
	if err := block.FetchFiles(ctx, i.bucket, u.home, u.id, meta.Thanos.Files, dir); err != nil {
		return err
	}
	if err := block.WriteMeta(dir, meta); err != nil {
		return err
	}
	meta.Stats, err = block.Verify(ctx, dir, labelRules{u.limits}.check)
	switch {
	case err != nil && (ctx.Err() != nil || block.OfMachine(err)):
		return err
	case err != nil:
		return &badBlock{err}
	case meta.Stats.NumSamples == 0:
		return &badBlock{errors.New("it has no samples")}
	}
	// What was verified is what is published, whatever else was sent meanwhile.
	after, err := i.versions(ctx, u)
	if err != nil {
		return err
	}
	if !maps.Equal(before, after) {
		return fmt.Errorf("files have changed while they were verified")
	}
	return nil
}

// versions are the ETags of a block's files.
func (i *Importer) versions(ctx context.Context, u upload) (map[bucket.Key]string, error) {
	tags := map[bucket.Key]string{}
	folder := bucket.BlockKey(u.home, u.id).Folder()
	for obj, err := range i.bucket.List(ctx, folder, true) {
		if err != nil {
			return nil, err
		}
		if block.IsPart(strings.TrimPrefix(string(obj.Key), string(folder))) {
			tags[obj.Key] = obj.ETag
		}
	}
	return tags, nil
}

// publish makes queries find a block, and compactors merge it.
func (i *Importer) publish(ctx context.Context, u upload, meta *bucket.Meta) error {
	if err := bucket.PublishBlock(ctx, i.bucket, u.home, meta); err != nil {
		return err
	}
	return bucket.NoteDue(ctx, i.bucket, string(u.tenant), time.Now(), ulid.Make().String())
}

// forget removes what only an upload has. What stays behind does no harm.
func (i *Importer) forget(ctx context.Context, u upload) {
	i.forgetFile(ctx, u, bucket.UploadingMetaFile)
	i.forgetFile(ctx, u, bucket.ValidationFile)
}

func (i *Importer) forgetFile(ctx context.Context, u upload, name string) {
	if err := i.bucket.Delete(ctx, u.key(name)); err != nil {
		i.logger.Warn("state of an upload not removed", "tenant", u.tenant, "block", u.id, "file", name, "err", err)
	}
}
