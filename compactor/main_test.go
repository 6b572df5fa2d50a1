package compactor_test

import (
	"os"
	"testing"

	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// testServer is one real S3 server for all tests.
var testServer buckettest.Server

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(childMain())
	}
	os.Exit(testServer.Run(m))
}
