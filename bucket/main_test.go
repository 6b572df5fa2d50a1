package bucket

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(counterDirEnv); dir != "" {
		os.Exit(countInFolder(dir))
	}
	os.Exit(testServer.Run(m))
}
