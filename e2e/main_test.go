// Package e2e is PROOF: it runs Hearth as users do, as a process of its own
// that is written to and asked over HTTP, killed and started again, and checks
// what it answers against what is known to be true.
//
// The tests in here need nothing but Go: hearth is built from this module. With
// the build tag e2e come those that take longer or want a real Prometheus
// (`make e2e`). Read hearth_test.go (the process), push_test.go and
// query_test.go (its clients) first; every other file is one promise.
//
// What may be set in the environment: HEARTH_BIN, a hearth that is built
// already; HEARTH_E2E_PROMETHEUS, the Prometheus to use instead of
// .cache/prometheus, with promtool beside it; HEARTH_E2E_SEED, to repeat a run's random choices.
package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// s3 is a real S3 server for the tests that want one.
var s3 buckettest.Server

func TestMain(m *testing.M) {
	code := s3.Run(m)
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built is the program under test.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// program is the path of hearth, built from these sources once for all tests.
func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.path = os.Getenv("HEARTH_BIN"); built.path != "" {
			return
		}
		if built.dir, built.err = os.MkdirTemp("", "hearth-e2e-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "hearth")
		out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", built.path, "../cmd/hearth").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("go build ../cmd/hearth: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// newRand is a source of random choices that a failure tells how to repeat, as
// far as the order of concurrent events allows.
func newRand(t testing.TB, seed uint64) *rand.Rand {
	t.Helper()
	if s := os.Getenv("HEARTH_E2E_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("HEARTH_E2E_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("HEARTH_E2E_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// until asks done again and again until it returns nil. It says what it waited
// for, and what done said last, if that takes too long.
func until(t testing.TB, patience time.Duration, what string, done func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", patience, what, err)
		}
		<-tick.C
	}
}
