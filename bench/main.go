// Package main of bench is HOW FAST: the load generator, and the comparison
// of Hearth with other servers side by side.
//
// It treats every server as a black box: real remote write in, the query API
// out, and /proc for what that costs. A run takes figures (figure.go), one
// after the other. For each it prepares a load (series.go, curve.go,
// encode.go, load.go), all of it encoded before any clock starts, and puts the
// same bytes on each target (targets.go) alone (process.go, send.go): the
// target is started on an empty folder just before, asked whether it has
// everything it acknowledged (verify.go), measured (write.go, tenants.go,
// disk.go, restart.go, neighbours.go, query.go) and stopped. What comes out is a table with
// ratios to the first target, and JSON (table.go).
//
//	go run ./bench -peer prometheus=/path/to/prometheus -peer victoriametrics=/path/to/victoria-metrics
//	go run ./bench -only write -url http://127.0.0.1:9090 -pid 4711 -name mine
//
// It promises to stop every process it has started and to remove its folder,
// also when interrupted, and to say so when a figure is doubtful: a request
// refused, a sample missing, a query without answer. It runs on Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if base := os.Getenv(noiseURL); base != "" {
		noiseMain(base)
		return
	}
	if do := os.Getenv(quietWork); do != "" {
		if err := quietMain(do); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// shortTimeout ends a short run that hangs.
const shortTimeout = 5 * time.Minute

// options are the command line.
type options struct {
	hearth  string
	peers   []string
	running Target
	push    string
	prefix  string
	only    string
	scale   float64
	short   bool
	v2      bool
	json    string
	profile string
	timeout time.Duration
}

func parseOptions(args []string, errOut io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.StringVar(&o.hearth, "hearth", "bin/hearth", "the `program` to measure first; \"\" for none")
	fs.Func("peer", "a server to compare with, started and stopped here: PRESET=/path/to/program (presets: "+
		strings.Join(presetNames(), ", ")+"),\nor name=..,cmd=..,push=..,query=..,ready=..,flush=..,store=..,tenants=true; "+
		"with pid=.. instead of cmd=..\na server that runs already. {port}, {port2}, {dir}, {store} are filled in. Repeatable", func(v string) error {
		o.peers = append(o.peers, v)
		return nil
	})
	fs.StringVar(&o.running.URL, "url", "", "base `URL` of a server that runs already, short for one -peer; needs -pid")
	fs.IntVar(&o.running.PID, "pid", 0, "process `id` of that server")
	fs.StringVar(&o.running.Name, "name", "", "its `name` in the table")
	fs.StringVar(&o.push, "push-path", "/api/v1/write", "its `path` for remote write")
	fs.StringVar(&o.prefix, "query-prefix", "/", "what comes before /api/v1/query on it")
	fs.StringVar(&o.only, "only", "", "the `figures` to take, separated by commas; all if empty:\n"+figureList())
	fs.Float64Var(&o.scale, "scale", 1, "multiplies the numbers of series and tenants")
	fs.BoolVar(&o.short, "short", false, "a small run of about a minute, to see that everything works; its figures mean little")
	fs.BoolVar(&o.v2, "rw2", false, "send remote write 2.0 instead of 1.0")
	fs.StringVar(&o.json, "json", "", "write all figures, those of single queries too, to this `file`")
	fs.StringVar(&o.profile, "cpuprofile", "", "keep CPU profiles of the servers under load in this `folder`")
	fs.DurationVar(&o.timeout, "timeout", 2*time.Hour, "end the run after this time")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("what is %q? Everything is a flag", fs.Arg(0))
	}
	return o, nil
}

func figureList() string {
	var b strings.Builder
	for _, f := range figures {
		fmt.Fprintf(&b, "%-8s %s\n", f.name, f.about)
	}
	return strings.TrimSpace(b.String())
}

// run is the whole program.
func run(ctx context.Context, args []string, out, errOut io.Writer) (err error) {
	o, err := parseOptions(args, errOut)
	if err != nil {
		return err
	}
	b, err := o.bench(errOut)
	if err != nil {
		return err
	}
	b.Work, err = os.MkdirTemp("", "hearth-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.Work)) }()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()

	report, err := b.Run(ctx)
	if werr := report.WriteTable(out); werr != nil {
		return werr
	}
	if o.json != "" {
		err = errors.Join(err, report.WriteJSON(o.json))
	}
	return err
}

// bench turns the command line into a run.
func (o *options) bench(errOut io.Writer) (*Bench, error) {
	targets, err := o.targets()
	if err != nil {
		return nil, err
	}
	names, err := chosen(o.only)
	if err != nil {
		return nil, err
	}
	b := &Bench{
		Targets: targets, Figures: names, Scale: o.scale, Runs: 7, Settle: 15 * time.Second, Wait: 30 * time.Second,
		V2: o.v2, Profile: o.profile, Out: errOut,
	}
	if o.short {
		b.Scale, b.Runs, b.Settle = o.scale*0.02, 2, time.Second
		o.timeout = min(o.timeout, shortTimeout)
	}
	if o.profile != "" {
		return b, os.MkdirAll(o.profile, 0o755)
	}
	return b, nil
}

func (o *options) targets() ([]*Target, error) {
	var out []*Target
	texts := o.peers
	if o.hearth != "" {
		if _, err := os.Stat(o.hearth); err != nil {
			return nil, fmt.Errorf("%w (build it with make, or say -hearth \"\")", err)
		}
		texts = append([]string{"hearth=" + o.hearth}, texts...)
	}
	for _, text := range texts {
		t, err := parseTarget(text)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	if o.running.URL != "" {
		t := o.running
		t.Push, t.Query = o.push, o.prefix
		if err := t.complete(); err != nil {
			return nil, err
		}
		out = append(out, &t)
	}
	if len(out) == 0 {
		return nil, errors.New("nothing to measure: give -hearth, -peer or -url")
	}
	return out, nil
}

// chosen are the figures to take.
func chosen(only string) ([]string, error) {
	var all []string
	for _, f := range figures {
		all = append(all, f.name)
	}
	if only == "" {
		return all, nil
	}
	names := strings.Split(only, ",")
	for _, n := range names {
		if !strings.Contains(","+strings.Join(all, ",")+",", ","+n+",") {
			return nil, fmt.Errorf("no figure %q, there are %s", n, strings.Join(all, ", "))
		}
	}
	return names, nil
}
