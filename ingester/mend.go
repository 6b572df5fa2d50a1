package ingester

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// The files of a head that mend looks at.
const (
	lockFile     = "lock" // there while the TSDB is open, so also after a crash
	wblFolder    = wlog.WblDirName
	wblMended    = "wbl.mended"
	wblReplaced  = "wbl.replaced"
	chunksFolder = "chunks_head"
)

// mend makes the log of out-of-order samples of a head that has crashed tell
// the truth. The TSDB writes a full chunk to a buffer and a marker to the log,
// which says: the samples before this are on disk. When the process is killed
// the chunk is lost with the buffer and the marker stays. The next replay sees
// through that as long as no later chunk is on disk, but the one after it
// believes the marker and drops samples that are nowhere else. So do markers
// without a chunk (reference 0), which follow a cut whose block may never have
// been written.
//
// So after a crash, and before the TSDB is opened, only those markers are kept
// whose chunk is on disk. One too few costs some memory until the next cut
// (samples are then held twice and merged on read), one too many costs samples.
func mend(dir string, logger *slog.Logger) error {
	if _, err := os.Stat(filepath.Join(dir, lockFile)); errors.Is(err, fs.ErrNotExist) {
		return nil // closed cleanly, with all buffers written
	}
	if err := finishMending(dir); err != nil {
		return err
	}
	wanted, err := markersOf(dir)
	if err != nil || len(wanted) == 0 {
		return err
	}
	present, err := chunksOnDisk(dir, wanted)
	if err != nil || len(present) == len(wanted) {
		return err
	}
	logger.Info("out-of-order log names chunks that a crash has lost, will read their samples from the log", "chunks", len(wanted)-len(present))
	if err := copyWBL(dir, present); err != nil {
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
func eachRecord(dir string, f func(dec *record.Decoder, rec []byte) error) error {
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
		if err := f(&dec, reader.Record()); err != nil {
			return err
		}
	}
	return nil
}

// markersOf returns the chunks that markers in the log refer to.
func markersOf(dir string) (map[chunks.ChunkDiskMapperRef]bool, error) {
	refs := map[chunks.ChunkDiskMapperRef]bool{}
	var buf []record.RefMmapMarker
	return refs, eachRecord(dir, func(dec *record.Decoder, rec []byte) (err error) {
		if dec.Type(rec) != record.MmapMarkers {
			return nil
		}
		if buf, err = dec.MmapMarkers(rec, buf[:0]); err != nil {
			return nil //nolint:nilerr // a broken log is the TSDB's to judge
		}
		for _, m := range buf {
			refs[m.MmapRef] = true
		}
		return nil
	})
}

// chunksOnDisk returns which of some chunks are in files that the TSDB will
// not throw away: it does so from the first broken one on.
func chunksOnDisk(dir string, wanted map[chunks.ChunkDiskMapperRef]bool) (map[chunks.ChunkDiskMapperRef]bool, error) {
	files, err := chunks.NewChunkDiskMapper(nil, filepath.Join(dir, chunksFolder), chunkenc.NewPool(), chunks.MinWriteBufferSize, 0)
	if err != nil {
		return nil, fmt.Errorf("open head chunks: %w", err)
	}
	defer func() { _ = files.Close() }() // nothing was written
	present, broken := map[chunks.ChunkDiskMapperRef]bool{}, math.MaxInt
	err = files.IterateAllChunks(func(_ chunks.HeadSeriesRef, ref chunks.ChunkDiskMapperRef, _, _ int64, _ uint16, _ chunkenc.Encoding, isOOO bool) error {
		if isOOO && wanted[ref] {
			present[ref] = true
		}
		return nil
	})
	var corrupt *chunks.CorruptionErr
	switch {
	case errors.As(err, &corrupt):
		broken = corrupt.FileIndex
	case err != nil:
		return nil, fmt.Errorf("read head chunks: %w", err)
	}
	for ref := range present {
		if file, _ := ref.Unpack(); file >= broken {
			delete(present, ref)
		}
	}
	return present, nil
}

// copyWBL writes the log anew with no other markers than those of keep.
func copyWBL(dir string, keep map[chunks.ChunkDiskMapperRef]bool) error {
	out, err := wlog.New(slog.New(slog.DiscardHandler), nil, filepath.Join(dir, wblMended), compression.Snappy)
	if err != nil {
		return fmt.Errorf("mend out-of-order log: %w", err)
	}
	var (
		enc record.Encoder
		buf []record.RefMmapMarker
	)
	err = eachRecord(dir, func(dec *record.Decoder, rec []byte) (err error) {
		if dec.Type(rec) != record.MmapMarkers {
			return out.Log(rec)
		}
		if buf, err = dec.MmapMarkers(rec, buf[:0]); err != nil {
			return nil //nolint:nilerr // a broken log is the TSDB's to judge
		}
		// A series' samples may have gone to several chunks at once: then only
		// all of them together hold what came before.
		lost := map[chunks.HeadSeriesRef]bool{}
		for _, m := range buf {
			lost[m.Ref] = lost[m.Ref] || !keep[m.MmapRef]
		}
		kept := slices.DeleteFunc(buf, func(m record.RefMmapMarker) bool { return lost[m.Ref] })
		if len(kept) == 0 {
			return nil
		}
		return out.Log(enc.MmapMarkers(kept, nil))
	})
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("mend out-of-order log: %w", err)
	}
	return nil
}
