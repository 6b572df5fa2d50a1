package importer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	maxMeta = 1 << 20 // bytes

	// leftoverAfter is when the compactor is asked to look for what was never
	// finished: a bit later than it counts as given up.
	leftoverAfter = 25 * time.Hour

	// source is in meta.json of what was uploaded.
	source = "upload"
)

// start begins an upload, or goes on with one, and returns the files that are
// there already. One that has failed begins anew.
func (i *Importer) start(ctx context.Context, u upload, meta *bucket.Meta) (present []string, err error) {
	if err := checkMeta(u, meta, time.Now()); err != nil {
		return nil, err
	}
	x, _, err := bucket.ReadIndex(ctx, i.bucket, u.home)
	if err != nil {
		return nil, err
	}
	there, err := bucket.HasBlock(ctx, i.bucket, u.home, x, u.id, meta.MinTime, meta.MaxTime-1)
	if err != nil {
		return nil, err
	}
	if there {
		return nil, errExists(u)
	}
	old, err := i.underWay(ctx, u)
	switch {
	case errors.Is(err, bucket.ErrNotFound):
	case err != nil:
		return nil, err
	case old.phase == validating:
		return nil, errInValidation(u)
	case old.phase == failed:
		if err := bucket.DeleteUnlisted(ctx, i.bucket, u.home, []ulid.ULID{u.id}); err != nil {
			return nil, err
		}
	}
	// Before anything else is there, so that somebody comes for what is left.
	if err := bucket.NoteDue(ctx, i.bucket, string(u.tenant), time.Now().Add(leftoverAfter), ulid.Make().String()); err != nil {
		return nil, err
	}
	if err := i.putJSON(ctx, u.key(bucket.UploadingMetaFile), meta); err != nil {
		return nil, err
	}
	if present, err = i.present(ctx, u, meta); err != nil {
		return nil, err
	}
	i.metrics.blocks.WithLabelValues("started").Inc()
	i.logger.Info("upload of a block started", "tenant", u.tenant, "block", u.id, "files", len(meta.Thanos.Files), "present", len(present))
	return present, nil
}

// present lists the files of an upload that are there, and removes those that
// are of another size than meta says.
func (i *Importer) present(ctx context.Context, u upload, meta *bucket.Meta) ([]string, error) {
	there, err := bucket.ListBlock(ctx, i.bucket, u.home, u.id)
	if err != nil {
		return nil, err
	}
	present := []string{}
	for _, f := range there {
		if slices.Contains(meta.Thanos.Files, f) {
			present = append(present, f.RelPath)
			continue
		}
		if err := i.bucket.Delete(ctx, u.key(f.RelPath)); err != nil {
			return nil, err
		}
	}
	return present, nil
}

// checkMeta checks what a client says of its block, and makes of it what we
// will say: of labels and history of compactions nothing is believed.
func checkMeta(u upload, meta *bucket.Meta, now time.Time) error {
	from, to := time.UnixMilli(meta.MinTime).UTC(), time.UnixMilli(meta.MaxTime).UTC()
	switch {
	case meta.Version != 1:
		return errInvalid("meta.json has the format version %d, 1 is known", meta.Version)
	case meta.ULID != u.id:
		return errInvalid("meta.json is of block %s", meta.ULID)
	case meta.MinTime < 0, meta.MinTime >= meta.MaxTime:
		return errInvalid("meta.json says that the block has the times from %d to %d", meta.MinTime, meta.MaxTime)
	case to.After(now.Add(time.Duration(u.limits.CreationGracePeriod))):
		return errInvalid("the block ends at %s, in the future", to.Format(time.RFC3339))
	case u.limits.Retention > 0 && !to.After(now.Add(-time.Duration(u.limits.Retention))):
		return wire.Errorf(wire.Expired, "err-block-too-old", "the block is from %s to %s, older than samples are kept (limit retention: %s)", from.Format(time.RFC3339), to.Format(time.RFC3339), u.limits.Retention)
	case meta.Thanos.Downsample.Resolution != 0:
		return errInvalid("the block is downsampled to %d ms; upload the raw one", meta.Thanos.Downsample.Resolution)
	}
	for name := range meta.Thanos.Labels {
		if !ownLabel(name) {
			return errInvalid("the block has the external label %q, which its series would lose; `hearth blocks upload -external-labels` puts it on them", name)
		}
	}
	files, err := checkFiles(meta.Thanos.Files, int64(u.limits.MaxBlockUploadSize))
	if err != nil {
		return err
	}
	meta.Thanos = bucket.ThanosMeta{Version: 1, Labels: map[string]string{}, Source: source, Files: files}
	meta.Compaction = tsdb.BlockMetaCompaction{Level: 1, Sources: []ulid.ULID{u.id}}
	return nil
}

// ownLabel says whether an external label is one that Thanos' heirs put on
// blocks for themselves: it says nothing about the samples.
func ownLabel(name string) bool {
	switch name {
	case bucket.ShardLabel, "__org_id__", "__ingester_id__", "__shard_id__":
		return true
	default:
		return false
	}
}

// checkFiles checks the list of a block's files, and returns what of it is
// sent: all but meta.json.
func checkFiles(listed []bucket.File, limit int64) (files []bucket.File, err error) {
	segments, size := 0, int64(0)
	for _, f := range listed {
		if f.RelPath == bucket.MetaFile {
			continue
		}
		switch {
		case !block.IsPart(f.RelPath):
			return nil, errInvalid("meta.json lists the file %q, which is none of a block", f.RelPath)
		case f.SizeBytes <= 0:
			return nil, errInvalid("meta.json says that %s has %d bytes", f.RelPath, f.SizeBytes)
		case slices.ContainsFunc(files, func(o bucket.File) bool { return o.RelPath == f.RelPath }):
			return nil, errInvalid("meta.json lists %s twice", f.RelPath)
		}
		if strings.HasPrefix(f.RelPath, bucket.ChunksDir) {
			segments++
		}
		if size += f.SizeBytes; size < 0 || (limit > 0 && size > limit) {
			return nil, wire.Errorf(wire.TooLarge, "err-block-too-large", "the block has more than %d bytes (limit max_block_upload_size)", limit)
		}
		files = append(files, f)
	}
	for n := 1; n <= segments; n++ {
		if name := fmt.Sprintf("%s/%06d", bucket.ChunksDir, n); !slices.ContainsFunc(files, func(f bucket.File) bool { return f.RelPath == name }) {
			return nil, errInvalid("meta.json lists %d segments of chunks, but not %s", segments, name)
		}
	}
	if segments == 0 || !slices.ContainsFunc(files, func(f bucket.File) bool { return f.RelPath == bucket.IndexFile }) {
		return nil, errInvalid("meta.json lists no index, or no chunks, below thanos.files")
	}
	return files, nil
}
