package ingester

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// crash goes on with what a process that is killed now leaves on disk: what is
// in buffers of the TSDB only is lost.
func (n *node) crash() {
	n.t.Helper()
	left := n.t.TempDir()
	require.NoError(n.t, os.CopyFS(left, os.DirFS(n.dir)))
	n.stop()
	n.dir = left
	n.start()
}

// late returns samples in falling order, so all but the first are out of order.
func late(newest int64, count int) (samples []prompb.Sample) {
	for i := range int64(count) {
		samples = append(samples, at(newest-i*1000, float64(i)))
	}
	return samples
}

func TestOutOfOrderSamplesSurviveTwoCrashes(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		now := base()
		one := labels.MustNewMatcher(labels.MatchEqual, "__name__", "late")
		n.push("t", series(`late`, late(now, 40)...)) // more than a chunk: its marker is in the log, the chunk in a buffer
		want := n.read("t", one)
		n.crash()
		require.Equal(t, want, n.read("t", one), "after one crash")

		var others []prompb.TimeSeries
		for i := range 2000 { // so many that some chunks reach the disk
			others = append(others, series(fmt.Sprintf(`other{i="%d"}`, i), late(now, 40)...))
		}
		n.push("t", others...)
		n.crash()
		require.Equal(t, want, n.read("t", one), "after two crashes")
	})
}

func TestOutOfOrderSamplesSurviveACrashWhileCutting(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		now := base()
		n.push("t", series(`late`, late(now, 10)...))
		for _, h := range n.heads() { // how a cut begins
			_, err := tsdb.NewOOOCompactionHead(context.Background(), h.db.Head())
			require.NoError(t, err)
		}
		n.push("t", series(`late`, late(now-60_000, 10)...))
		want := n.read("t")
		n.crash()
		require.Equal(t, want, n.read("t"))
	})
}

// A cut of several block ranges goes from one to the next while samples come in:
// none of them gets lost between two ranges.
func TestSamplesSurviveACutOfSeveralRangesAndACrash(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.limits.Defaults.OutOfOrderWindow = model.Duration(10 * time.Hour)
		n.start()
		const width, most = 1500, 25 // series, pushes of each sender
		newest := base()
		all := func(at ...prompb.Sample) (ts []prompb.TimeSeries) {
			for k := range width {
				ts = append(ts, series(fmt.Sprintf(`late{k="%d"}`, k), at...))
			}
			return ts
		}
		for round := range int64(2) {
			newest += (3 * time.Hour).Milliseconds()
			n.push("t", all(at(newest-(150*time.Minute).Milliseconds(), 1), at(newest, 2))...)
			var stop atomic.Bool
			var pushing sync.WaitGroup
			for sender := range int64(2) {
				pushing.Go(func() {
					for step := int64(1); step <= most && !stop.Load(); step++ {
						late := newest - (2*step+sender)*1000
						p, err := n.Push(context.Background(), "t", request(t, "t", all(at(late, float64(round)))...))
						assert.Equal(t, width, p.Samples, "%v", err)
					}
				})
			}
			_, err := n.flush(context.Background(), n.heads())
			require.NoError(t, err)
			stop.Store(true)
			pushing.Wait()
			want := n.read("t")
			n.crash()
			require.Equal(t, want, n.read("t"), "round %d", round)
		}
	})
}

// A series that was cut and came back has two references in the log, of which
// the first is used again after a restart.
func TestOutOfOrderSamplesSurviveTwoRestartsAfterACut(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		now := base()
		n.push("t", series(`late`, at(now-60_000, 1)))
		_, err := n.flush(context.Background(), n.heads())
		require.NoError(t, err)
		n.push("t", series(`late`, at(now, 2)))
		n.restart()
		n.push("t", series(`late`, late(now-1000, 40)...))
		want := n.read("t")
		n.restart()
		require.Equal(t, want, n.read("t"))
	})
}
