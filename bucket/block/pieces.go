package block

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/hearth-metrics/hearth/bucket"
)

// day is what pieces end at. Compactors merge up to a day, and remove blocks
// whole when all of them is too old: longer ones they leave alone.
const day = int64(24 * time.Hour / time.Millisecond)

// View is what is taken of a block, and how.
type View struct {
	Tenant string            // the block is of the pool: only this tenant's series, without the hidden label
	Add    map[string]string // labels for all series that have none of the name
}

// Whole says whether the block in dir can stay as it is: the view leaves all
// of it, nothing in it is deleted, and it lies within a day (UTC).
func (v View) Whole(dir string) (bool, error) {
	meta, err := ReadMeta(dir)
	if err != nil {
		return false, err
	}
	if v.Tenant != "" || len(v.Add) > 0 || floorDay(meta.MinTime) != floorDay(meta.MaxTime-1) {
		return false, nil
	}
	// Prometheus writes a file of a header and a checksum where there are none.
	info, err := os.Stat(filepath.Join(dir, bucket.TombstonesFile))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return err == nil && info.Size() <= 9, err
}

// Pieces writes what a view shows of the block in dir to new blocks below out,
// one for each day (UTC) of which there are samples, and returns their folders.
// The same block gives pieces of the same names each time.
func Pieces(ctx context.Context, dir, out string, v View) (pieces []string, err error) {
	b, err := tsdb.OpenBlock(quiet, dir, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	shown, err := v.of(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, shown.close()) }()
	lc, err := tsdb.NewLeveledCompactorWithOptions(ctx, nil, quiet, []int64{day}, nil, tsdb.LeveledCompactorOptions{})
	if err != nil {
		return nil, err
	}
	meta := b.Meta()
	for from := meta.MinTime; from < meta.MaxTime; from = floorDay(from) + day {
		to := min(floorDay(from)+day, meta.MaxTime)
		ids, err := lc.Write(out, shown, from, to, nil)
		if err != nil {
			return nil, fmt.Errorf("write piece from %d on: %w", from, err)
		}
		for _, id := range ids { // one, or none where there are no samples
			piece, err := rename(out, id, v.name(meta.ULID, from))
			if err != nil {
				return nil, err
			}
			pieces = append(pieces, piece)
		}
	}
	return pieces, nil
}

// name is that of a piece: it has the time of the block that it was cut from,
// so that the order of names stays, and follows from what is in it.
func (v View) name(parent ulid.ULID, from int64) ulid.ULID {
	h := sha256.New()
	h.Write(parent.Bytes())
	add, _ := json.Marshal(v.Add) // never fails; sorted by name
	for _, part := range []string{v.Tenant, string(add), strconv.FormatInt(from, 10)} {
		h.Write([]byte(strconv.Quote(part)))
	}
	var id ulid.ULID
	copy(id[:6], parent[:6])
	copy(id[6:], h.Sum(nil))
	return id
}

// rename gives a block that was just written another name.
func rename(out string, old, id ulid.ULID) (dir string, err error) {
	dir = filepath.Join(out, id.String())
	if err := os.Rename(filepath.Join(out, old.String()), dir); err != nil {
		return "", err
	}
	meta, err := ReadMeta(dir)
	if err != nil {
		return "", err
	}
	meta.ULID, meta.Compaction.Sources = id, []ulid.ULID{id}
	meta.Thanos.Version, meta.Thanos.Labels, meta.Thanos.Source = 1, map[string]string{}, "hearth-blocks"
	return dir, WriteMeta(dir, meta)
}

// ReadMeta reads the meta.json of a block on local disk.
func ReadMeta(dir string) (*bucket.Meta, error) {
	content, err := os.ReadFile(filepath.Join(dir, bucket.MetaFile))
	if err != nil {
		return nil, err
	}
	meta := &bucket.Meta{}
	if err := json.Unmarshal(content, meta); err != nil {
		return nil, fmt.Errorf("parse %s of %s: %w", bucket.MetaFile, dir, err)
	}
	if meta.Version != 1 || meta.MinTime >= meta.MaxTime {
		return nil, fmt.Errorf("%s of %s: format version %d, from %d to %d", bucket.MetaFile, dir, meta.Version, meta.MinTime, meta.MaxTime)
	}
	return meta, nil
}

// WriteMeta writes the meta.json of a block in a folder that is thrown away
// after a crash.
func WriteMeta(dir string, meta *bucket.Meta) error {
	content, err := json.MarshalIndent(meta, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, bucket.MetaFile), content, 0o666)
}

// floorDay is the beginning of the day (UTC) of a time, also before 1970.
func floorDay(t int64) int64 { return t - ((t%day)+day)%day }

// put adds labels to a series that has none of their names.
func put(ls labels.Labels, add map[string]string) labels.Labels {
	b := labels.NewBuilder(ls)
	for name, value := range add {
		if !ls.Has(name) {
			b.Set(name, value)
		}
	}
	return b.Labels()
}

// inOrder sorts series by labels and refuses two that have become one.
func inOrder(all []shownSeries) error {
	slices.SortFunc(all, func(a, b shownSeries) int { return labels.Compare(a.labels, b.labels) })
	for i := 1; i < len(all); i++ {
		if labels.Equal(all[i-1].labels, all[i].labels) {
			return fmt.Errorf("with the labels added two series become one, %s", all[i].labels)
		}
	}
	return nil
}
