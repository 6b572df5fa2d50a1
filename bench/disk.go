package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// runDisk measures what two hours of data take in object storage, or in what
// comes closest to it for a server without.
func runDisk(ctx context.Context, b *Bench) error {
	return b.each(ctx, part{"disk", b.spec(b.scaled(10_000, 200), 480), canStore, diskTrial})
}

func canStore(t *Target) bool { return t.Flush != "" && t.Store != "" }

func diskTrial(ctx context.Context, t *trial) error {
	sent, err := t.send(ctx)
	if err != nil {
		return err
	}
	t.verify(ctx, "after the load")
	if err := t.FlushAll(ctx); err != nil {
		return err
	}
	if t.Own() && !t.Bucket {
		// Without object storage some of it may reach the disk only at the end.
		if err := t.Stop(); err != nil {
			return err
		}
	}
	chunks, all, err := folderSize(t.Store)
	if err != nil {
		return err
	}
	if all == 0 {
		return fmt.Errorf("nothing in %s after the flush", t.Store)
	}
	t.add("bytes per sample in the bucket", "B", float64(all)/float64(sent.Samples))
	if chunks > 0 {
		t.detail("of these, chunks", "B", float64(chunks)/float64(sent.Samples))
	}
	return nil
}

// folderSize is the size of all files below a folder, and of those that hold
// chunks in Prometheus' block format.
func folderSize(root string) (chunks, all int64, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		all += info.Size()
		if strings.HasSuffix(filepath.Dir(path), "/chunks") {
			chunks += info.Size()
		}
		return nil
	})
	return chunks, all, err
}
