package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// FetchFile downloads an object to a path on local disk, whole or not at all.
// The directory exists already; while the download lasts it has a file
// <path>.<random>.tmp, which a later start of the process may remove.
func FetchFile(ctx context.Context, b Bucket, key Key, path string) error {
	if err := fetchFile(ctx, b, key, path); err != nil {
		return fmt.Errorf("fetch to %s: %w", path, err)
	}
	return nil
}

func fetchFile(ctx context.Context, b Bucket, key Key, path string) error {
	rc, obj, err := b.Get(ctx, key)
	if err != nil {
		return err
	}
	defer rc.Close()
	temp := path + "." + rand.Text() + ".tmp"
	defer func() { _ = os.Remove(temp) }() // gone already when all went well
	if err := writeSynced(temp, rc, obj.Size); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeSynced writes r, which must have size bytes, to a new file. It is synced:
// a name that survives a loss of power with nothing behind it would be taken
// for the object.
func writeSynced(path string, r io.Reader, size int64) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	n, err := io.Copy(file, r)
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("got %d bytes of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	return file.Sync()
}
