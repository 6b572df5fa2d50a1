package main

import (
	"context"
	"errors"
)

// runWrite measures what one large tenant costs: the server's CPU while it
// takes the load, and its memory afterwards.
func runWrite(ctx context.Context, b *Bench) error {
	return b.each(ctx, part{"write", b.spec(b.scaled(100_000, 1000), 60), anyTarget, writeTrial})
}

func writeTrial(ctx context.Context, t *trial) error {
	empty, err := t.settled(ctx)
	if err != nil {
		return err
	}
	before, err := cpuTime(t.PID)
	if err != nil {
		return err
	}
	peak, profiled := watchPeak(t.PID), t.profile(ctx, "write")
	sent, err := t.send(ctx)
	highest := peak()
	after, cpuErr := cpuTime(t.PID)
	profiled()
	if err := errors.Join(err, cpuErr); err != nil {
		return err
	}
	rss, err := t.settled(ctx)
	if err != nil {
		return err
	}
	later, err := cpuTime(t.PID)
	if err != nil {
		return err
	}

	millions, series := float64(sent.Samples)/1e6, float64(t.load.AllSeries())
	t.add("CPU per million samples", "s", (after-before).Seconds()/millions)
	t.detail("more while settling, per million", "s", (later-after).Seconds()/millions)
	t.add("samples per second", "1/s", float64(sent.Samples)/sent.Wall.Seconds())
	t.add("99th percentile of a push", "ms", sent.P99.Seconds()*1e3)
	t.add("RAM per active series", "KiB", rss/series/1024)
	t.detail("above that of the empty server", "KiB", (rss-empty)/series/1024)
	t.detail("highest during the load", "KiB", highest/series/1024)
	if heap, ok := t.heapInUse(ctx); ok {
		t.detail("Go heap in use", "KiB", heap/series/1024)
	}
	t.detail("generator's CPU per million samples", "s", sent.OwnCPU.Seconds()/millions)
	t.verify(ctx, "after the load")
	return nil
}
