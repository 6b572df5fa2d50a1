// Package buckettest is PROPS: what tests play object storage with. It has a
// real S3 server that is built and started on demand (Server), and a proxy to
// stand before it that fails in all the ways in which a service over a network
// does (Proxy). It serves the tests of package bucket and those from outside in
// e2e; hearth itself has nothing of it.
package buckettest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// What a Server has, and asks to be shown.
const (
	Bucket          = "hearth-test"
	AccessKeyID     = "test"
	SecretAccessKey = "not-to-be-printed"
)

// Server is a real S3 server (e2e/s3server) with one bucket, empty at first.
// The zero value is ready to be used by all tests of a package: the first one
// to ask for its address starts it. TestMain calls Run, which stops it.
type Server struct {
	once sync.Once
	addr string
	err  error

	cmd   *exec.Cmd
	stdin io.Closer
	dir   string
}

// Addr is the host and port where the server answers, over plain HTTP. With
// -short it skips the test: to build the server takes a minute or two, once.
func (s *Server) Addr(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no S3 server")
	}
	s.once.Do(func() { s.err = s.start() })
	if s.err != nil {
		t.Fatalf("start the S3 server: %v", s.err)
	}
	return s.addr
}

// Stop ends the server, if it was started, and removes what was stored in it.
func (s *Server) Stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.stdin.Close() // this is what it ends on
		_ = s.cmd.Wait()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

// Run is TestMain of a package whose tests use the server: it runs them, stops
// it, and holds them to leaving no goroutine behind. It returns the exit code.
func (s *Server) Run(m *testing.M) int {
	code := m.Run()
	s.Stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

func (s *Server) start() error {
	program, err := buildServer()
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "hearth-s3-"); err != nil {
		return err
	}
	s.cmd = exec.Command(program, "-dir", s.dir, "-bucket", Bucket, "-access", AccessKeyID, "-secret", SecretAccessKey)
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
