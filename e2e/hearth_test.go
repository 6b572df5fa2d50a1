package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything that should happen at once may take on a
// machine that is busy with other things.
const patience = 2 * time.Minute

// hearth is a hearth process, and the ones that followed it on its data.
type hearth struct {
	endpoint
	dir    string // data_dir; log files lie beside it
	set    []string
	env    []string // more of the environment
	starts int

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone
}

// startHearth starts a process on an empty data folder, with settings written
// as path=value, and waits until it is ready. It does not outlive the test.
func startHearth(t testing.TB, set ...string) *hearth {
	t.Helper()
	h := newHearth(t, set...)
	h.start()
	return h
}

// newHearth is startHearth without starting it.
func newHearth(t testing.TB, set ...string) *hearth {
	h := &hearth{endpoint: newEndpoint(t, "/prometheus"), dir: filepath.Join(t.TempDir(), "data"), set: set}
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			h.showLogs()
		}
	})
	return h
}

// start starts the program on the data that is there, with more settings if
// given, and waits until it is ready.
func (h *hearth) start(set ...string) {
	h.t.Helper()
	h.launch(set...)
	h.awaitReady()
}

// awaitReady waits until what was launched is ready.
func (h *hearth) awaitReady() {
	h.t.Helper()
	until(h.t, patience, "hearth to say where it listens", h.findURL)
	until(h.t, patience, "hearth to be ready", func() error {
		status, body, err := h.get("/ready")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
}

// launch is start without waiting.
func (h *hearth) launch(set ...string) {
	h.t.Helper()
	h.starts++
	out, err := os.Create(h.logFile(h.starts))
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	args := []string{}
	for _, s := range append([]string{
		"data_dir=" + h.dir,
		"server.http_listen_address=127.0.0.1:0",
		"server.grpc_listen_address=127.0.0.1:0",
	}, append(h.set, set...)...) {
		args = append(args, "-set", s)
	}
	h.cmd = exec.Command(program(h.t), args...)
	h.cmd.Stdout, h.cmd.Stderr = out, out
	h.cmd.Env = append(os.Environ(), h.env...)
	h.exited = spawn(h.t, h.cmd)
}

// spawn starts a process that ends with this one where the system can do that.
// The channel is closed when it has ended.
func spawn(t testing.TB, cmd *exec.Cmd) chan struct{} {
	t.Helper()
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the state is in cmd.ProcessState
		close(exited)
	}()
	return exited
}

var welcome = regexp.MustCompile(`(?m)^ *write +(http://[^/ ]+)/api/v1/push`)

func (h *hearth) findURL() error {
	select {
	case <-h.exited:
		h.t.Fatalf("hearth has ended by itself: %s\n%s", h.cmd.ProcessState, h.log())
	default:
	}
	m := welcome.FindStringSubmatch(h.log())
	if m == nil {
		return errors.New("it has not yet")
	}
	h.url = m[1]
	return nil
}

// kill ends the process as a crash does, if it runs.
func (h *hearth) kill() {
	if h.cmd == nil || h.cmd.Process == nil {
		return
	}
	_ = h.cmd.Process.Kill() // an error says that it is gone already
	<-h.exited
}

// stop ends the process as an operator does, and expects a clean end.
func (h *hearth) stop() {
	h.t.Helper()
	h.askToStop()
	h.awaitStop()
}

func (h *hearth) askToStop() {
	h.t.Helper()
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		h.t.Fatalf("stop hearth: %v", err)
	}
}

func (h *hearth) awaitStop() {
	h.t.Helper()
	select {
	case <-h.exited:
	case <-time.After(patience):
		h.t.Fatalf("hearth did not stop within %s", patience)
	}
	if code := h.cmd.ProcessState.ExitCode(); code != 0 {
		h.t.Fatalf("hearth stopped with %s", h.cmd.ProcessState)
	}
}

// forgetRecent stops hearth, takes away all that the ingester has on its disk,
// and starts it again: what it answers from then on comes from the bucket.
func (h *hearth) forgetRecent() {
	h.t.Helper()
	h.stop()
	for _, folder := range []string{"ingester", "storegateway"} {
		if err := os.RemoveAll(filepath.Join(h.dir, folder)); err != nil {
			h.t.Fatal(err)
		}
	}
	h.start()
}

func (h *hearth) logFile(start int) string {
	return fmt.Sprintf("%s-%d.log", h.dir, start)
}

// log is what the running process, or the last one, has printed.
func (h *hearth) log() string {
	text, err := os.ReadFile(h.logFile(h.starts))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// showLogs prints the end of the last processes' logs, and before it what they
// have complained of.
func (h *hearth) showLogs() {
	for n := max(1, h.starts-2); n <= h.starts; n++ {
		text, _ := os.ReadFile(h.logFile(n))
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for _, line := range lines[:max(0, len(lines)-40)] {
			if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
				h.t.Logf("%s", line)
			}
		}
		lines = lines[max(0, len(lines)-40):]
		h.t.Logf("end of the log %s:\n%s", filepath.Base(h.logFile(n)), strings.Join(lines, "\n"))
	}
}

// flush cuts and ships all, or what some tenants have, and waits for it.
func (h *hearth) flush(tenants ...string) {
	h.t.Helper()
	path := "/ingester/flush?wait=true"
	for _, id := range tenants {
		path += "&tenant=" + id
	}
	status, body, err := h.do(http.MethodPost, path, "", nil, nil)
	if err != nil || status != http.StatusOK {
		h.t.Fatalf("flush: %d %s %v", status, body, err)
	}
}

// metric is a metric of hearth's own, named as in the text format with its
// labels in order, 0 if it is not there.
func (h *hearth) metric(name string) float64 {
	h.t.Helper()
	_, body, err := h.get("/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err != nil {
				h.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}
