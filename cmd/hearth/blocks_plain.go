package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
)

// outside is what becomes of labels that Prometheus and Thanos keep outside of
// the series of a block.
type outside struct{ how string }

func (o *outside) add(fs *flag.FlagSet) {
	fs.StringVar(&o.how, "external-labels", "", "what becomes of labels that blocks have outside of their series, as Thanos' have: `add` them to all series that have none of the name, or drop them")
}

func (o *outside) check() error {
	if o.how != "" && o.how != "add" && o.how != "drop" {
		return fmt.Errorf("%w: -external-labels: want add or drop, got %q", errUsage, o.how)
	}
	return nil
}

// labelsOf is what is to be added to the series of a block. Labels that
// Cortex' and Mimir's blocks have for themselves say nothing about samples.
func (o *outside) labelsOf(meta *bucket.Meta) (map[string]string, error) {
	add := map[string]string{}
	for name, value := range meta.Thanos.Labels {
		if !strings.HasPrefix(name, "__") {
			add[name] = value
		}
	}
	switch {
	case len(add) == 0, o.how == "drop":
		return nil, nil //nolint:nilnil // nothing to add
	case o.how == "":
		return nil, fmt.Errorf("block %s has external labels %v: say with -external-labels whether to add or to drop them", meta.ULID, add)
	default:
		return add, nil
	}
}

// plain makes of a block on local disk blocks that a tenant's home may have:
// of this tenant alone, of a day at most, with nothing beside the samples. One
// that is so already stays where it is; what is written is below temp.
func plain(ctx context.Context, dir, temp string, o *outside, tenant string) ([]string, error) {
	meta, err := block.ReadMeta(dir)
	if err != nil {
		return nil, err
	}
	if res := meta.Thanos.Downsample.Resolution; res != 0 {
		return nil, fmt.Errorf("block %s is downsampled to %s, which Hearth does not read: take the raw one", meta.ULID, time.Duration(res)*time.Millisecond)
	}
	add, err := o.labelsOf(meta)
	if err != nil {
		return nil, err
	}
	view := block.View{Tenant: tenant, Add: add}
	whole, err := view.Whole(dir)
	if err != nil {
		return nil, err
	}
	if whole {
		return []string{dir}, nil
	}
	return block.Pieces(ctx, dir, temp, view)
}

// filesOf lists the files of a block on local disk that belong to it.
func filesOf(dir string) (files []bucket.File, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, bucket.ChunksDir))
	if err != nil {
		return nil, err
	}
	names := []string{bucket.IndexFile}
	for _, e := range entries {
		names = append(names, bucket.ChunksDir+"/"+e.Name())
	}
	slices.Sort(names)
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return nil, err
		}
		if block.IsPart(name) {
			files = append(files, bucket.File{RelPath: name, SizeBytes: info.Size()})
		}
	}
	return files, nil
}

// moved is a line of what happened to a block.
type moved struct {
	Block  string    `json:"block"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Bytes  int64     `json:"bytes"`
	Result string    `json:"result"`
	Error  string    `json:"error,omitempty"`
}

// What happens to a block that is moved.
const (
	resultMoved   = "done"
	resultThere   = "there already"
	resultOld     = "older than samples are kept"
	resultWould   = "would be done"
	resultCut     = "would be cut into days"
	resultFailure = "FAILED"
)

func movedOf(meta *bucket.Meta, bytes int64) moved {
	return moved{Block: meta.ULID.String(), From: msTime(meta.MinTime), To: msTime(meta.MaxTime), Bytes: bytes}
}

// journal tells what happens to blocks while it happens.
type journal struct {
	*caller
	counts map[string]int
}

func (c *caller) journal() *journal { return &journal{c, map[string]int{}} }

func (j *journal) add(m moved, result string, err error) {
	m.Result = result
	if err != nil {
		m.Result, m.Error = resultFailure, err.Error()
	}
	j.counts[m.Result]++
	if j.output == "json" {
		writeLine(j.stdout, m)
		return
	}
	fmt.Fprintf(j.stdout, "%s  %s  %s  %9.1f MiB  %s", m.Block, shortTime(m.From), shortTime(m.To), float64(m.Bytes)/(1<<20), m.Result)
	if m.Error != "" {
		fmt.Fprintf(j.stdout, ": %s", m.Error)
	}
	fmt.Fprintln(j.stdout)
}

// close sums up; an error if a block failed.
func (j *journal) close() error {
	if j.output != "json" {
		var sums []string
		for _, result := range sortedKeys(j.counts) {
			sums = append(sums, fmt.Sprintf("%d %s", j.counts[result], result))
		}
		fmt.Fprintf(j.stdout, "blocks: %s\n", strings.Join(sums, ", "))
	}
	if n := j.counts[resultFailure]; n > 0 {
		return fmt.Errorf("%d blocks failed; the same command again goes on with them", n)
	}
	return nil
}
