package main

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// asHearth makes the test binary be the program, so that signals and exit
// codes are tested on a real process.
const asHearth = "HEARTH_TEST_IS_HEARTH"

func TestMain(m *testing.M) {
	if os.Getenv(asHearth) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

func TestFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hearth.yaml")
	require.NoError(t, os.WriteFile(file, []byte("data_dir: /from/file\nbucket: {s3: {secret_access_key: \"${HUSH}\"}}\n"), 0o600))
	t.Setenv("HUSH", "very secret")

	for name, tc := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"version":        {[]string{"-version"}, 0, "revision", ""},
		"help":           {[]string{"-help"}, 0, "", "-print-config"},
		"print defaults": {[]string{"-print-config"}, 0, "http_listen_address: 127.0.0.1:9009", ""},
		"print file":     {[]string{"-config", file, "-print-config"}, 0, "data_dir: /from/file", ""},
		"set over file":  {[]string{"-config", file, "-set", "data_dir=/from/set", "-print-config"}, 0, "data_dir: /from/set", ""},
		"log level":      {[]string{"-log.level", "debug", "-print-config"}, 0, "level: debug", ""},
		"secret":         {[]string{"-config", file, "-print-config"}, 0, `secret_access_key: '********'`, ""},
		"unknown flag":   {[]string{"-server.port=1"}, 2, "", "flag provided but not defined: -server.port"},
		"argument":       {[]string{"serve"}, 2, "", `unexpected argument "serve"`},
		"unknown key":    {[]string{"-set", "data_dri=x"}, 2, "", `the nearest valid key is "data_dir"`},
		"target":         {[]string{"-target", "ingester"}, 2, "", "set memberlist.join"},
		"no file":        {[]string{"-config", file + ".not"}, 2, "", "no such file"},
		"taken address":  {[]string{"-set", "data_dir=" + t.TempDir(), "-set", "server.http_listen_address=256.0.0.1:1"}, 1, "", "server.http_listen_address"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, tc.code, run(tc.args, &stdout, &stderr), stderr.String())
			require.Contains(t, stdout.String(), tc.stdout)
			require.Contains(t, stderr.String(), tc.stderr)
			require.NotContains(t, stdout.String()+stderr.String(), "very secret")
		})
	}
}

// process starts Hearth and waits until it is ready.
func process(t *testing.T) (cmd *exec.Cmd, url string) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, exe, "-set", "data_dir="+t.TempDir(),
		"-set", "server.http_listen_address=127.0.0.1:0", "-set", "server.grpc_listen_address=127.0.0.1:0")
	cmd.Env = append(os.Environ(), asHearth+"=1")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if m := regexp.MustCompile(`open +(http://\S+)/`).FindStringSubmatch(lines.Text()); m != nil {
			return cmd, m[1]
		}
	}
	t.Fatal("Hearth ended without being ready")
	return nil, ""
}

func TestSignalStopsCleanly(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd, _ := process(t)
		require.NoError(t, cmd.Process.Signal(sig))
		require.NoError(t, cmd.Wait(), "exit code 0 after %s", sig)
	}
}

// A request that does not end holds up the stop; a second signal does not wait
// for it.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	cmd, url := process(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	asked, trace := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(trace)
		close(asked)
		res, err := client.Get(url + "/debug/pprof/trace?seconds=60")
		if err == nil {
			res.Body.Close()
		}
	}()
	<-asked
	require.Eventually(t, func() bool { // the request is inside: it and this one
		res, err := client.Get(url + "/metrics")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		var body strings.Builder
		_, err = bufio.NewReader(res.Body).WriteTo(&body)
		return err == nil && strings.Contains(body.String(), "hearth_http_requests_in_flight 2")
	}, 30*time.Second, 10*time.Millisecond)

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { // the door closes
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(url + "/ready")
		if err == nil {
			res.Body.Close()
		}
		return err != nil
	}, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	err := cmd.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, syscall.SIGTERM, exit.Sys().(syscall.WaitStatus).Signal())
	<-trace
}
