package importer_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// testServer is one real S3 server for all tests.
var testServer buckettest.Server

func TestMain(m *testing.M) {
	code := m.Run()
	testServer.Stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
