package bucket

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	testBucket = "hearth-test"
	testAccess = "test"
	testSecret = "not-to-be-printed"
)

// s3Server is one real S3 server (../e2e/s3server) for all tests.
type s3Server struct {
	once sync.Once
	addr string
	err  error

	cmd   *exec.Cmd
	stdin io.Closer
	dir   string
}

var testServer s3Server

// s3Config is a place of its own in the test server. -short skips the test.
func s3Config(t testing.TB) S3Config {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no S3 server")
	}
	testServer.once.Do(func() { testServer.err = testServer.start() })
	if testServer.err != nil {
		t.Fatalf("start the S3 server: %v", testServer.err)
	}
	return S3Config{
		Endpoint:        testServer.addr,
		Bucket:          testBucket,
		Region:          "us-east-1",
		AccessKeyID:     testAccess,
		SecretAccessKey: testSecret,
		Insecure:        true,
		Prefix:          strings.NewReplacer("/", "-", "#", "-").Replace(t.Name()),
	}
}

// openS3 opens a bucket over S3 that gives its connections back with the test.
func openS3(t testing.TB, cfg S3Config, bounds s3Bounds) Bucket {
	t.Helper()
	m := newMetrics(prometheus.NewRegistry())
	b, err := newS3(cfg, bounds, slog.New(slog.DiscardHandler), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return &observed{b, m}
}

func (s *s3Server) start() error {
	program, err := buildS3Server()
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "hearth-s3-"); err != nil {
		return err
	}
	s.cmd = exec.Command(program, "-dir", s.dir, "-bucket", testBucket, "-access", testAccess, "-secret", testSecret)
	var complaints bytes.Buffer
	s.cmd.Stderr = &complaints
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = s.cmd.Wait()
		return fmt.Errorf("read its address: %w\n%s", err, &complaints)
	}
	s.addr = strings.TrimSpace(line)
	return nil
}

func (s *s3Server) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.stdin.Close()
		_ = s.cmd.Wait()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

// buildS3Server compiles the server, which takes a minute or two, and keeps
// the program for as long as its sources stay the same.
func buildS3Server() (string, error) {
	src, err := filepath.Abs("../e2e/s3server")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, name := range []string{"main.go", "go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(src, name))
		if err != nil {
			return "", err
		}
		_, _ = h.Write(content)
	}
	cache, err := filepath.Abs("../.cache")
	if err != nil {
		return "", err
	}
	program := filepath.Join(cache, "s3server-"+hex.EncodeToString(h.Sum(nil))[:16])
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(cache, 0o777); err != nil {
		return "", err
	}
	// Under another name first: somebody else may be building, too.
	temp := fmt.Sprintf("%s.%d.%d", program, os.Getpid(), time.Now().UnixNano())
	defer func() { _ = os.Remove(temp) }()
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", temp, ".")
	build.Dir = src
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build in %s: %w\n%s", src, err, out)
	}
	return program, os.Rename(temp, program)
}
