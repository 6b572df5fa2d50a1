package ingester

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// The folders of a head that mend looks at.
const (
	wblFolder   = wlog.WblDirName
	wblMended   = "wbl.mended"
	wblReplaced = "wbl.replaced"
)

// mend takes the markers out of a head's log of out-of-order samples, before
// the TSDB is opened. A marker says: the samples before this are in a chunk on
// disk. The TSDB drops what it has replayed of a series when it meets one, and
// that is not always true:
//
//   - A process that is killed loses chunks with the buffer they were in.
//   - A cut that was not finished leaves markers (of reference 0), whose block
//     may never have been written.
//   - A series that has left the head and come back has two references in the
//     write-ahead log. After a restart the first one is used again, also for
//     chunks. At the next replay the TSDB attaches those, and takes them off
//     again when it meets the second reference: even if nothing ever crashed.
//
// The log holds all samples since the last cut, so without markers none is
// missing. The price is that those in chunks are held twice until the next cut,
// and merged on read.
func mend(dir string, logger *slog.Logger) error {
	if err := finishMending(dir); err != nil {
		return err
	}
	markers, err := countMarkers(dir)
	if err != nil || markers == 0 {
		return err
	}
	logger.Debug("out-of-order log will be read without its markers", "markers", markers)
	if err := copyWBL(dir); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, wblFolder), filepath.Join(dir, wblReplaced)); err != nil {
		return err
	}
	return finishMending(dir)
}

// finishMending brings the folder to one of its two states: with the log as it
// was, or with the mended one.
func finishMending(dir string) error {
	wbl, mended, replaced := filepath.Join(dir, wblFolder), filepath.Join(dir, wblMended), filepath.Join(dir, wblReplaced)
	if _, err := os.Stat(replaced); err == nil { // then the mended one is complete
		if err := os.Rename(mended, wbl); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.RemoveAll(replaced)
	}
	return os.RemoveAll(mended)
}

// eachRecord reads the log up to its end, or to where it is broken, as the
// TSDB does.
func eachRecord(dir string, f func(kind record.Type, rec []byte) error) error {
	wbl := filepath.Join(dir, wblFolder)
	if _, err := os.Stat(wbl); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	segments, err := wlog.NewSegmentsReader(wbl)
	if err != nil {
		return fmt.Errorf("open out-of-order log: %w", err)
	}
	defer segments.Close()
	dec := record.NewDecoder(labels.NewSymbolTable(), slog.New(slog.DiscardHandler))
	reader := wlog.NewReader(segments)
	for reader.Next() {
		if err := f(dec.Type(reader.Record()), reader.Record()); err != nil {
			return err
		}
	}
	return nil
}

// countMarkers counts the records in the log that are markers.
func countMarkers(dir string) (int, error) {
	n := 0
	err := eachRecord(dir, func(kind record.Type, _ []byte) error {
		if kind == record.MmapMarkers {
			n++
		}
		return nil
	})
	return n, err
}

// copyWBL writes the log anew without markers.
func copyWBL(dir string) error {
	out, err := wlog.New(slog.New(slog.DiscardHandler), nil, filepath.Join(dir, wblMended), compression.Snappy)
	if err != nil {
		return fmt.Errorf("mend out-of-order log: %w", err)
	}
	err = eachRecord(dir, func(kind record.Type, rec []byte) error {
		if kind == record.MmapMarkers {
			return nil
		}
		return out.Log(rec)
	})
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("mend out-of-order log: %w", err)
	}
	return nil
}
