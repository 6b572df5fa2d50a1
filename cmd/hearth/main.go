// Command hearth is the DOOR: it reads flags, starts what package app builds,
// and stops it on a signal. With a noun, as in `hearth tenant list`, it is a
// client of a running Hearth's API instead. Nothing else happens here.
//
// Exit codes: 0 after a clean stop, 1 when something failed while running, 2
// when flags or configuration are wrong. A second signal ends the process at
// once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/prometheus/common/version"

	"github.com/hearth-metrics/hearth/app"
	"github.com/hearth-metrics/hearth/cores"
)

const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// flags is what the command line says.
type flags struct {
	source       app.Source
	printConfig  bool
	printVersion bool
}

func run(args []string, stdout, stderr io.Writer) int {
	if code, ok := runCommand(args, stdout, stderr); ok {
		return code
	}
	f, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage // the flag package has told why
	case f.printVersion:
		printVersion(stdout)
		return exitOK
	}

	cfg, err := app.Load(f.source)
	if err != nil {
		fmt.Fprintf(stderr, "hearth: the configuration cannot be used:\n%v\n", err)
		return exitUsage
	}
	if f.printConfig {
		return printConfig(cfg, stdout, stderr)
	}
	return serve(cfg, stdout, stderr)
}

func parse(args []string, stderr io.Writer) (flags, error) {
	f := flags{source: app.Source{Getenv: os.LookupEnv}}
	fs := flag.NewFlagSet("hearth", flag.ContinueOnError)
	fs.SetOutput(stderr)
	set := func(prefix string) func(string) error {
		return func(s string) error {
			f.source.Set = append(f.source.Set, prefix+s)
			return nil
		}
	}
	fs.StringVar(&f.source.File, "config", "", "read the configuration from this YAML `file`; without it the defaults hold")
	fs.Func("target", "parts to run, a comma-separated `list`; short for -set target=...", set("target="))
	fs.Func("log.level", "debug, info, warn or error, the least severe `level` to log; short for -set log.level=...", set("log.level="))
	fs.Func("set", "set one value of the configuration, `path=value`; the value is YAML. Repeatable, the last one holds", set(""))
	fs.BoolVar(&f.printConfig, "print-config", false, "print the configuration that would be used, secrets masked, and exit")
	fs.BoolVar(&f.printVersion, "version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		return f, err
	}
	if fs.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q: settings are given as flags, and the commands are %s", fs.Arg(0), strings.Join(sortedKeys(commands()), ", "))
		fmt.Fprintln(stderr, "hearth:", err)
		return f, err
	}
	return f, nil
}

func printConfig(cfg app.Config, stdout, stderr io.Writer) int {
	text, err := app.Print(cfg)
	if err == nil {
		_, err = stdout.Write(text)
	}
	if err != nil {
		fmt.Fprintln(stderr, "hearth:", err)
		return exitFailure
	}
	return exitOK
}

func printVersion(w io.Writer) {
	v := version.Version
	if v == "" {
		v = "(built without make)"
	}
	fmt.Fprintf(w, "hearth %s\n  revision  %s\n  go        %s\n  platform  %s/%s\n", v, version.GetRevision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func serve(cfg app.Config, stdout, stderr io.Writer) int {
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.Log.SlogLevel()}))
	app.TuneGC(logger)
	cores.Overcommit()

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
		case <-ctx.Done():
		}
		// Before a stop begins the signals have their usual effect again, so a
		// second one ends the process at once.
		signal.Stop(signals)
		stop()
	}()

	a, err := app.New(cfg, logger)
	if err == nil {
		err = a.Run(ctx, stdout)
	}
	if err != nil {
		logger.Error("hearth stopped", "err", err)
		return exitFailure
	}
	return exitOK
}
