package buckettest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// serverSource is where the server is in the repository, as a module of its
// own, so that what it links is none of hearth's dependencies.
const serverSource = "e2e/s3server"

// buildServer compiles the server and keeps the program in .cache for as long
// as its sources stay the same.
func buildServer() (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	src := filepath.Join(root, serverSource)
	h := sha256.New()
	for _, name := range []string{"main.go", "go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(src, name))
		if err != nil {
			return "", err
		}
		_, _ = h.Write(content)
	}
	program := filepath.Join(root, ".cache", "s3server-"+hex.EncodeToString(h.Sum(nil))[:16])
	return program, makeOnce(program, func(path string) error {
		build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, ".")
		build.Dir = src
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build in %s: %w\n%s", src, err, out)
		}
		return nil
	})
}

// repository is the root of the sources that the test was built from: tests
// run in the folder of their package.
func repository() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, serverSource, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no %s above %s", serverSource, start)
		}
	}
}

// makeOnce has a file made, unless it is there. Of several that want it, in
// this process or in others, as when the tests of two packages run, one makes
// it while the others wait. It is made under another name first: a file that
// has its name is whole.
func makeOnce(path string, build func(path string) error) error {
	there, err := exists(path)
	if there || err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if there, err = exists(path); there || err != nil {
		return err
	}
	temp := path + ".tmp"
	defer func() { _ = os.Remove(temp) }() // gone already when all went well
	if err := build(temp); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// lock waits for a lock that the system takes back from a process that dies.
// The file stays: whoever waits for it has it open.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}
