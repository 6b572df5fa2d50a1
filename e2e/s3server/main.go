// Command s3server is a real S3 server for tests: versitygw over a folder.
//
// Each folder in -dir is a bucket; -bucket makes one. It prints its address on
// one line as soon as it answers, and stops on SIGTERM, on an interrupt, or
// when its standard input ends, so that no test leaves one behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address; port 0: a free one")
	dir := flag.String("dir", "", "folder of the buckets")
	bucket := flag.String("bucket", "", "bucket to make, if any")
	access := flag.String("access", "test", "access key id")
	secret := flag.String("secret", "testsecret", "secret access key")
	flag.Parse()

	// The gateway prints this and that; standard output is for the address.
	out := os.Stdout
	os.Stdout = os.Stderr

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := run(ctx, out, *listen, *dir, *bucket, *access, *secret); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer, listen, dir, bucket, access, secret string) error {
	if err := os.MkdirAll(filepath.Join(dir, bucket), 0o777); err != nil {
		return err
	}
	store := meta.XattrMeta{}
	if err := store.Test(dir); err != nil {
		return fmt.Errorf("folder %s cannot hold the attributes of objects: %w", dir, err)
	}
	backend, err := posix.New(dir, store, posix.PosixOpts{CopyObjectThreshold: 5 << 30, Concurrency: 5000})
	if err != nil {
		return err
	}
	addr, err := freeAddress(listen)
	if err != nil {
		return err
	}
	go announce(ctx, out, addr)
	return embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
		RootUserAccess:    access,
		RootUserSecret:    secret,
		Ports:             []string{addr},
		MaxConnections:    10000,
		MaxRequests:       10000,
		MultipartMaxParts: 10000,
		KeepAlive:         true,
		Quiet:             true,
	})
}

// freeAddress turns port 0 into a free port. The gateway listens by itself and
// does not tell where, so the port is found by listening for a moment.
func freeAddress(listen string) (string, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// announce prints the address when somebody answers there.
func announce(ctx context.Context, out io.Writer, addr string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			fmt.Fprintln(out, addr)
			return
		}
		<-tick.C
	}
}
