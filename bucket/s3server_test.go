package bucket

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// testServer is one real S3 server for all tests.
var testServer buckettest.Server

// s3Config is a place of its own in the test server. -short skips the test.
func s3Config(t testing.TB) S3Config {
	t.Helper()
	return S3Config{
		Endpoint:        testServer.Addr(t),
		Bucket:          buckettest.Bucket,
		Region:          "us-east-1",
		AccessKeyID:     buckettest.AccessKeyID,
		SecretAccessKey: buckettest.SecretAccessKey,
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
	return &observed{b, m, "test"}
}
