package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 3 * time.Minute
	stopTimeout  = time.Minute
)

// Server is a target that serves: started here, or found running.
type Server struct {
	*Target // placeholders replaced

	PID int

	client   *http.Client
	original *Target
	work     string // folder of this server; "" when not started here
	cmd      *exec.Cmd
	exited   chan struct{} // closed when the process is gone
	log      *os.File
	folders  int // {dir} folders so far
}

// StartServer starts a target in a folder of its own below work and waits
// until it is ready. A target that runs already is only looked at.
func StartServer(ctx context.Context, t *Target, work string) (*Server, error) {
	if len(t.Cmd) == 0 {
		return &Server{Target: t, PID: t.PID, client: newClient(), original: t}, nil
	}
	dir, err := os.MkdirTemp(work, "server-")
	if err != nil {
		return nil, err
	}
	s := &Server{client: newClient(), original: t, work: dir}
	if err := s.renew(); err != nil {
		return nil, err
	}
	if _, err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// renew gives the server an empty data folder and other ports. What is in
// {store} stays.
func (s *Server) renew() error {
	s.folders++
	dir, store := filepath.Join(s.work, fmt.Sprintf("data-%d", s.folders)), filepath.Join(s.work, "store")
	for _, d := range []string{dir, store} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	port, port2, err := freePorts()
	if err != nil {
		return err
	}
	s.Target = s.original.expand(strings.NewReplacer("{dir}", dir, "{store}", store, "{port}", port, "{port2}", port2))
	return nil
}

// freePorts finds two ports of the loopback interface that nobody listens on.
func freePorts() (one, other string, err error) {
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer a.Close() //nolint:errcheck // nobody was served
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer b.Close() //nolint:errcheck // nobody was served
	return portOf(a), portOf(b), nil
}

func portOf(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// Start starts the process over the folder it has and returns how long it
// took until the server was ready.
func (s *Server) Start(ctx context.Context) (time.Duration, error) {
	logFile, err := os.OpenFile(filepath.Join(s.work, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	cmd := exec.Command(s.Cmd[0], s.Cmd[1:]...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return 0, errors.Join(fmt.Errorf("start %s: %w", s.Name, err), logFile.Close())
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(exited)
	}()
	s.cmd, s.PID, s.exited, s.log = cmd, cmd.Process.Pid, exited, logFile
	if err := s.waitReady(ctx); err != nil {
		return 0, fmt.Errorf("start %s: %w; its log ends with:\n%s", s.Name, err, s.logTail())
	}
	return time.Since(start), nil
}

func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, _, err := s.get(ctx, s.Ready, ""); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-s.exited:
			return errors.New("it has stopped")
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", s.Ready, ctx.Err())
		case <-tick.C:
		}
	}
}

// logTail is the end of what the server wrote.
func (s *Server) logTail() string {
	text, err := os.ReadFile(filepath.Join(s.work, "log"))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-2000):]))
}

// Own says whether the server may be stopped and started.
func (s *Server) Own() bool { return s.work != "" }

// Kill ends the process at once, as a power cut would.
func (s *Server) Kill() error {
	_ = s.cmd.Process.Kill() // already gone is as good
	<-s.exited
	return s.log.Close()
}

// Stop asks the process to end and kills it when it does not.
func (s *Server) Stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // already gone is as good
	select {
	case <-s.exited:
		return s.log.Close()
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("%s did not stop in %v", s.Name, stopTimeout), s.Kill())
	}
}

// Close ends a server started here and removes its folder. Killing is enough:
// nothing it holds is needed again.
func (s *Server) Close() error {
	s.client.CloseIdleConnections()
	if !s.Own() {
		return nil
	}
	if s.cmd != nil {
		select {
		case <-s.exited:
			_ = s.log.Close() // closed already when it was stopped here
		default:
			if err := s.Kill(); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(s.work)
}

// Renew stops the server and starts it over an empty data folder; what it had
// put into its store is all that is left.
func (s *Server) Renew(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	if err := s.renew(); err != nil {
		return err
	}
	_, err := s.Start(ctx)
	return err
}

// clockTicks is USER_HZ, the unit of times in /proc: 100 on every Linux that
// Go runs on.
const clockTicks = 100

// cpuTime is the user and system time of a process so far.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The second field is the name in parentheses and may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time: %q is too short", text)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// anonymous is the memory of a process that no file backs, in bytes.
func anonymous(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "RssAnon:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		return kib << 10, err
	}
	return 0, fmt.Errorf("read memory: no RssAnon in /proc/%d/status", pid)
}
