package e2e

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// jobs is what a compactor says of its compactions.
type jobs struct{ done, inVain float64 }

// countJobs asks the compactors that are there. Of one that is killed later
// counts what it has said last.
func (s *story) countJobs() (all jobs) {
	s.t.Helper()
	for _, n := range s.cluster.those("", (*node).compacts) {
		of := func(outcome string) float64 {
			return n.metric(fmt.Sprintf("hearth_compactor_jobs_total{outcome=%q}", outcome))
		}
		s.jobs[fmt.Sprint(n.name, " after start ", n.starts)] = jobs{of("success"), of("lost") + of("failure") + of("bad_block")}
	}
	for _, j := range s.jobs {
		all.done, all.inVain = all.done+j.done, all.inVain+j.inVain
	}
	return all
}

// killWorker has the ingesters ship what they have, and kills the compactor
// that is the first to have a job on its disk, which stays there.
func (s *story) killWorker([]string) {
	s.t.Helper()
	const look, flushAfter = time.Millisecond, 10_000 // looks
	tick := time.NewTicker(look)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < patience; {
		s.countJobs()
		for _, n := range s.cluster.those("", (*node).ingests) {
			if status, body, err := n.do(http.MethodPost, "/ingester/flush", "", nil, nil); err != nil || status != http.StatusAccepted {
				s.t.Fatalf("flush of %s: %d %s %v", n.name, status, body, err)
			}
		}
		for range flushAfter {
			<-tick.C
			for _, n := range s.cluster.those("", (*node).compacts) {
				if !n.atWork() {
					continue
				}
				n.crash()
				if s.worker = n; n.atWork() {
					s.tell("  it is %s", n.name)
					return
				}
				n.startAgain() // it had just ended
			}
		}
	}
	s.t.Fatalf("waited %s for a compactor to be at work", patience)
}

// atWork says that a compactor has a job on its disk.
func (n *node) atWork() bool {
	found, err := os.ReadDir(filepath.Join(n.dir, "compactor"))
	return err == nil && len(found) > 0
}

// awaitMerged waits until nothing is left to be merged in what the load has
// written: of each range of time there is one block in each home.
func (s *story) awaitMerged(w []string) {
	s.t.Helper()
	width, err := time.ParseDuration(w[0])
	require.NoError(s.t, err)
	b := s.openBucket()
	homes := []bucket.Key{bucket.PoolHome, bucket.TenantHome("own")}
	until(s.t, patience, "all blocks to be merged", func() error {
		var errs []error
		for _, home := range homes {
			x, _, err := bucket.ReadIndex(s.t.Context(), b, home)
			if err != nil {
				return err
			}
			errs = append(errs, merged(home, x, width.Milliseconds()))
		}
		return errors.Join(errs...)
	})
}

func merged(home bucket.Key, x *bucket.Index, width int64) error {
	count := map[int64]int{}
	for _, b := range x.Blocks {
		if !x.Marked(b.ID) {
			count[b.MinTime/width]++
		}
	}
	if len(count) == 0 {
		return fmt.Errorf("there is nothing in %s", home)
	}
	for start, n := range count {
		if n > 1 {
			return fmt.Errorf("%d blocks of %s in %s", n, time.UnixMilli(start*width).UTC(), home)
		}
	}
	return nil
}

func (s *story) openBucket() bucket.Bucket {
	s.t.Helper()
	cfg := bucket.DefaultConfig()
	cfg.Filesystem.Dir = filepath.Join(s.cluster.dir, "bucket")
	b, err := bucket.New(cfg, s.t.TempDir(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(s.t, err)
	return b
}

// expectWorkOnce says that compactors have divided their jobs. While they do not
// know of each other yet, two may do the same.
func (s *story) expectWorkOnce([]string) {
	s.t.Helper()
	const few = 3
	all := s.countJobs()
	var told []string
	for _, name := range slices.Sorted(maps.Keys(s.jobs)) {
		told = append(told, fmt.Sprintf("%s: %v done, %v in vain", name, s.jobs[name].done, s.jobs[name].inVain))
	}
	s.tell("  %v jobs done, %v in vain\n%s", all.done, all.inVain, strings.Join(told, "\n"))
	if all.done == 0 || all.inVain > max(few, all.done/4) {
		s.t.Errorf("of %v jobs %v were done in vain", all.done+all.inVain, all.inVain)
	}
}
