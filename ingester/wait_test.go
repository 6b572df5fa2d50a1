package ingester

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// aDay is where a day begins, some days ago.
func aDay() int64 {
	day := (24 * time.Hour).Milliseconds()
	return time.Now().UnixMilli()/day*day - 5*day
}

// live writes a sample each ten minutes for so many hours, some of them late,
// and looks after the head each hour. It returns from which hour to which the
// head's blocks are, and those of late samples.
func live(t *testing.T, n *node, hours int64, also func(hour int64)) (blocks, late [][2]int64) {
	t.Helper()
	ctx, b := context.Background(), aDay()
	for k := range hours * 6 {
		now := b + k*600_000
		n.push("a", series(`m{of="all"}`, at(now, float64(k))))
		if k > 20 && k%8 == 0 {
			n.push("a", series(`m{of="all"}`, at(now-10*600_000+1, float64(k))))
		}
		if k%6 == 5 {
			also(k / 6)
			h := n.headsOf("a")[1]
			require.NoError(t, n.cut(ctx, h, time.Time{}))
			_, err := n.shipHead(ctx, h)
			require.NoError(t, err)
		}
	}
	for _, block := range n.headsOf("a")[1].db.Blocks() {
		m := block.Meta()
		hours := [2]int64{(m.MinTime - b) / 3_600_000, (m.MaxTime - b) / 3_600_000}
		if m.Compaction.FromOutOfOrder() {
			late = append(late, hours)
			continue
		}
		blocks = append(blocks, hours)
	}
	return blocks, late
}

// wanted is what live has written, as read returns it.
func wanted(hours int64) string {
	line := `{__name__="m", of="all"}`
	b := aDay()
	for k := range hours * 6 {
		line += fmt.Sprintf(" %d:%d", b+k*600_000, k)
		if later := k + 10; later > 20 && later%8 == 0 && later < hours*6 {
			line += fmt.Sprintf(" %d:%d", b+k*600_000+1, later)
		}
	}
	return line
}

func middling(t *testing.T) *node {
	n := newNode(t)
	own(&n.limits.Defaults)
	n.upTo = 24 * time.Hour
	return n.start()
}

// A tenant's own head that holds little is cut once a day, and all is there all
// the time, over restarts, too.
func TestMiddlingHeadIsCutOnceADay(t *testing.T) {
	n := middling(t)
	blocks, late := live(t, n, 54, func(hour int64) {
		if hour%7 == 6 {
			n.restart()
		}
		if hour > 3 {
			require.Equal(t, []string{wanted(hour + 1)}, n.read("a"))
		}
	})
	require.Equal(t, [][2]int64{{0, 2}, {2, 24}, {24, 48}}, blocks, "the first one is new")
	require.NotEmpty(t, late)
	require.Equal(t, []string{wanted(54)}, n.read("a"))
	_, err := n.flush(context.Background(), n.headsOf("a"))
	require.NoError(t, err)
	require.Equal(t, []string{wanted(54)}, n.read("a"))
	n.restart()
	require.Equal(t, []string{wanted(54)}, n.read("a"))
}

// One that holds more than its share is cut on the next border, in one block.
func TestLargeHeadIsNotKept(t *testing.T) {
	n := middling(t)
	blocks, _ := live(t, n, 30, func(hour int64) {
		n.ownBytes = ownBytes
		if hour >= 13 && hour < 20 {
			n.ownBytes = 1
		}
	})
	require.Equal(t, [][2]int64{{0, 2}, {2, 12}, {12, 14}, {14, 16}, {16, 18}, {18, 24}}, blocks)
}

// Where series come and go those that are gone do not stay for a day.
func TestHeadOfNewSeriesIsNotKept(t *testing.T) {
	n := middling(t)
	blocks, _ := live(t, n, 12, func(hour int64) {
		n.push("a", series(fmt.Sprintf(`other{of="%d"}`, hour), at(aDay()+hour*3_600_000, 1)))
	})
	require.Equal(t, [][2]int64{{0, 2}, {2, 4}, {4, 6}, {6, 8}, {8, 10}}, blocks)
}
