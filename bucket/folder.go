package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// hiddenDir holds what the folder needs beside the objects. Its name is no
// tenant's, because of the tilde.
const hiddenDir = ".~hearth"

// staleTemp is how long nothing has been written to a temporary file when its
// writer is taken for dead.
const staleTemp = time.Hour

// folder is a Bucket in a folder. A key is a path below it.
//
// An object is written to a temporary file, synced and renamed, so it appears
// whole or not at all, also over a loss of power. All changes of a key are made
// under a lock that holds between goroutines and between processes, so the
// conditions of Put do too.
//
// An ETag is the file's modification time in nanoseconds, its size and its
// inode. A hash of the content would have to be computed by reading the whole
// file whenever somebody asks. The clock alone is too coarse (a few
// milliseconds on Linux), so Put sets the time itself and makes it greater than
// that of the file it replaces.
type folder struct {
	dir   string
	locks [64]keyLock
}

func newFolder(dir string) (*folder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir}
	for _, d := range []string{f.tempDir(), f.lockDir()} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return nil, err
		}
	}
	for i := range f.locks {
		f.locks[i].path = filepath.Join(f.lockDir(), fmt.Sprintf("%02x", i))
		f.locks[i].held = make(chan struct{}, 1)
	}
	return f, f.removeStaleTemps()
}

func (f *folder) tempDir() string     { return filepath.Join(f.dir, hiddenDir, "tmp") }
func (f *folder) lockDir() string     { return filepath.Join(f.dir, hiddenDir, "locks") }
func (f *folder) path(key Key) string { return filepath.Join(f.dir, filepath.FromSlash(string(key))) }

func (f *folder) lock(key Key) *keyLock {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return &f.locks[h.Sum32()%uint32(len(f.locks))]
}

// removeStaleTemps deletes what writers left that were killed.
func (f *folder) removeStaleTemps() error {
	entries, err := os.ReadDir(f.tempDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < staleTemp {
			continue
		}
		if err := os.Remove(filepath.Join(f.tempDir(), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Get implements Bucket.
func (f *folder) Get(ctx context.Context, key Key) (io.ReadCloser, Object, error) {
	file, obj, err := f.open(ctx, key)
	if err != nil {
		return nil, Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	return &fileReader{ctx: ctx, r: file, Closer: file}, obj, nil
}

// GetRange implements Bucket.
func (f *folder) GetRange(ctx context.Context, key Key, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 || length < 0 {
		return nil, fmt.Errorf("get range of %s: offset %d and length %d must not be negative", key, offset, length)
	}
	file, obj, err := f.open(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get range of %s: %w", key, err)
	}
	if offset > obj.Size || length > obj.Size-offset {
		_ = file.Close()
		return nil, rangeError(key, offset, length, obj.Size)
	}
	return &fileReader{ctx: ctx, r: io.NewSectionReader(file, offset, length), Closer: file}, nil
}

// rangeError says that an object is shorter than the range asked for.
func rangeError(key Key, offset, length, size int64) error {
	return fmt.Errorf("get range of %s: bytes %d to %d of %d: %w", key, offset, offset+length, size, io.ErrUnexpectedEOF)
}

func (f *folder) open(ctx context.Context, key Key) (*os.File, Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, Object{}, err
	}
	if err := key.Validate(); err != nil {
		return nil, Object{}, err
	}
	file, err := os.Open(f.path(key))
	if err != nil {
		return nil, Object{}, notFound(err)
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = ErrNotFound
	default:
		return file, object(key, info), nil
	}
	_ = file.Close()
	return nil, Object{}, err
}

// notFound maps the file system's words for "there is no such object".
func notFound(err error) error {
	if missing(err) {
		return ErrNotFound
	}
	return err
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func object(key Key, info fs.FileInfo) Object {
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return Object{
		Key:      key,
		Size:     info.Size(),
		ETag:     fmt.Sprintf("%x-%x-%x", info.ModTime().UnixNano(), info.Size(), inode),
		Modified: info.ModTime(),
	}
}

// fileReader stops when the context does.
type fileReader struct {
	ctx context.Context
	r   io.Reader
	io.Closer
}

func (r *fileReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// Stat implements Bucket.
func (f *folder) Stat(ctx context.Context, key Key) (Object, error) {
	obj, err := f.stat(ctx, key)
	if err != nil {
		return Object{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return obj, nil
}

func (f *folder) stat(ctx context.Context, key Key) (Object, error) {
	if err := ctx.Err(); err != nil {
		return Object{}, err
	}
	if err := key.Validate(); err != nil {
		return Object{}, err
	}
	info, err := os.Stat(f.path(key))
	switch {
	case err != nil:
		return Object{}, notFound(err)
	case info.IsDir():
		return Object{}, ErrNotFound
	default:
		return object(key, info), nil
	}
}

// Put implements Bucket.
func (f *folder) Put(ctx context.Context, key Key, r io.ReadSeeker, size int64, cond Condition) (string, error) {
	etag, err := f.put(ctx, key, r, size, cond)
	if err != nil {
		return "", fmt.Errorf("put %s: %w", key, err)
	}
	return etag, nil
}

func (f *folder) put(ctx context.Context, key Key, r io.Reader, size int64, cond Condition) (string, error) {
	if err := key.Validate(); err != nil {
		return "", err
	}
	temp, err := f.writeTemp(ctx, r, size)
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(temp) }() // gone already when all went well

	unlock, err := f.lock(key).acquire(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()

	old, err := f.check(ctx, key, cond)
	if err != nil {
		return "", err
	}
	if err := makeNewer(temp, old.Modified); err != nil {
		return "", err
	}
	return f.publish(temp, key)
}

// writeTemp puts size bytes of r into a new synced file and returns its path.
func (f *folder) writeTemp(ctx context.Context, r io.Reader, size int64) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	path := filepath.Join(f.tempDir(), rand.Text())
	if err := copyToTemp(ctx, path, r, size); err != nil {
		_ = os.Remove(path)
		return "", err
	}
	return path, nil
}

func copyToTemp(ctx context.Context, path string, r io.Reader, size int64) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.CopyN(file, &fileReader{ctx: ctx, r: r}, size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("copy %d bytes: %w", size, err)
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return err
	}
	return file.Sync()
}

// check returns the object that Put is to replace, if the condition holds.
func (f *folder) check(ctx context.Context, key Key, cond Condition) (Object, error) {
	old, err := f.stat(ctx, key)
	exists := err == nil
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return Object{}, err
	case cond.IfAbsent && exists, cond.IfMatch != "" && old.ETag != cond.IfMatch:
		return Object{}, ErrPrecondition
	default:
		return old, nil
	}
}

// makeNewer sets the time of a file that is not newer than what it replaces:
// within the clock's resolution, or when the clock went back.
func makeNewer(path string, old time.Time) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.ModTime().After(old) {
		return nil
	}
	// A microsecond and not a nanosecond: some file systems keep no finer time.
	t := old.Add(time.Microsecond)
	return os.Chtimes(path, t, t)
}

// publish renames a file to where the key is.
func (f *folder) publish(temp string, key Key) (string, error) {
	info, err := os.Stat(temp)
	if err != nil {
		return "", err
	}
	path := f.path(key)
	dir := filepath.Dir(path)
	// Delete of a neighbour may remove the directory, empty, just after it was
	// made or found. It loses this race in the end.
	for range 100 {
		made, err := f.makeDirs(dir)
		if err == nil {
			err = os.Rename(temp, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, d := range append(made, dir) {
			if err := syncDir(d); err != nil {
				return "", err
			}
		}
		return object(key, info).ETag, nil
	}
	return "", fmt.Errorf("rename to %s: its directory keeps vanishing", path)
}

// makeDirs makes dir and its parents, and returns the directories that got a
// new entry by that.
func (f *folder) makeDirs(dir string) (grown []string, err error) {
	for d := dir; d != f.dir; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		}
		grown = append(grown, filepath.Dir(d))
	}
	err = os.MkdirAll(dir, 0o777)
	if errors.Is(err, fs.ErrExist) {
		err = fs.ErrNotExist // it was there when it was made, and gone when it was looked at
	}
	return grown, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		// Whoever removed the directory has removed our object first.
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Delete implements Bucket. Directories that are left empty go too.
func (f *folder) Delete(ctx context.Context, key Key) error {
	if err := f.delete(ctx, key); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func (f *folder) delete(ctx context.Context, key Key) error {
	if err := key.Validate(); err != nil {
		return err
	}
	unlock, err := f.lock(key).acquire(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// Not only to save work: os.Remove would remove an empty directory.
	if _, err := f.stat(ctx, key); err != nil {
		return err
	}
	path := f.path(key)
	if err := os.Remove(path); err != nil {
		return notFound(err)
	}
	dir := filepath.Dir(path)
	for dir != f.dir && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
	return syncDir(dir)
}

// List implements Bucket.
func (f *folder) List(ctx context.Context, prefix Key, recursive bool) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		err := prefix.validatePrefix()
		if err == nil {
			_, err = f.walk(ctx, prefix, recursive, func(o Object) bool { return yield(o, nil) })
		}
		if err != nil {
			yield(Object{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

// walk visits what is below a prefix in order of keys. It returns false when
// visit did.
func (f *folder) walk(ctx context.Context, prefix Key, recursive bool, visit func(Object) bool) (bool, error) {
	names, err := f.names(ctx, prefix)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		key := prefix + Key(name)
		var goOn bool
		switch {
		case strings.HasSuffix(name, "/") && recursive:
			goOn, err = f.walk(ctx, key, recursive, visit)
		case strings.HasSuffix(name, "/"):
			goOn, err = f.visitFolder(ctx, key, visit)
		default:
			goOn, err = f.visitFile(ctx, key, visit)
		}
		if !goOn || err != nil {
			return false, err
		}
	}
	return true, nil
}

// names lists a directory as keys sort: "a.b" is before "a/", which is before
// "a0".
func (f *folder) names(ctx context.Context, prefix Key) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(f.path(prefix))
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		switch {
		case prefix == "" && e.Name() == hiddenDir:
		case e.IsDir():
			names = append(names, e.Name()+"/")
		default:
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func (f *folder) visitFile(ctx context.Context, key Key, visit func(Object) bool) (bool, error) {
	obj, err := f.stat(ctx, key)
	if errors.Is(err, ErrNotFound) { // deleted meanwhile
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return visit(obj), nil
}

// visitFolder visits a folder if there is an object somewhere in it: an empty
// directory is left for a moment by Put and Delete, and means nothing.
func (f *folder) visitFolder(ctx context.Context, key Key, visit func(Object) bool) (bool, error) {
	found := false
	_, err := f.walk(ctx, key, true, func(Object) bool {
		found = true
		return false
	})
	if err != nil || !found {
		return err == nil, err
	}
	return visit(Object{Key: key}), nil
}
