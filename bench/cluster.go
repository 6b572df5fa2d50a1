package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ingestersInCluster hold a copy of each series.
const ingestersInCluster = 3

// runCluster measures what a cluster's write path costs as a whole: the same
// load as of the figure write, through one distributor to three ingesters, of
// the first target if that is Hearth.
func runCluster(ctx context.Context, b *Bench) error {
	hearth := b.Targets[0]
	if hearth.Name != "hearth" {
		b.say("  the first target is not hearth")
		return nil
	}
	load, err := Prepare(ctx, b.spec(b.scaled(100_000, 1000), 60), b.Work)
	if err != nil {
		return err
	}
	c, err := startCluster(ctx, hearth.Cmd[0], b.Work)
	if err == nil {
		err = c.measure(ctx, b, load)
	}
	return errors.Join(err, c.close(), load.Remove())
}

// cluster is the processes, the distributor last.
type cluster []*Server

func startCluster(ctx context.Context, bin, work string) (c cluster, err error) {
	const members = ingestersInCluster + 1
	gossip := make([]string, members)
	for i := range gossip {
		if gossip[i], _, err = freePorts(); err != nil {
			return nil, err
		}
	}
	for i, port := range gossip {
		t := hearthPreset(bin)
		t.Name, t.URL = fmt.Sprintf("member %d", i+1), "http://127.0.0.1:{port}"
		target := "ingester"
		if i == members-1 {
			target = "distributor,querier"
		}
		t.Cmd = append(t.Cmd, "-target", target,
			"-set", "bucket.filesystem.dir="+filepath.Join(work, "cluster-bucket"),
			"-set", "instance.id="+fmt.Sprint(i), "-set", "memberlist.cluster_label=bench-"+gossip[0],
			"-set", "memberlist.bind_address=127.0.0.1", "-set", "memberlist.bind_port="+port,
			"-set", "memberlist.join=127.0.0.1:"+strings.Join(gossip, ",127.0.0.1:"))
		if err := t.complete(); err != nil {
			return c, err
		}
		s, err := StartServer(ctx, &t, work)
		if err != nil {
			return c, err
		}
		c = append(c, s)
	}
	return c, c.waitForRing(ctx)
}

// waitForRing returns when the distributor knows all ingesters.
func (c cluster) waitForRing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		_, body, err := c[len(c)-1].get(ctx, c[len(c)-1].URL+"/metrics", "")
		if err == nil && strings.Contains(string(body), fmt.Sprintf(`hearth_ring_members{name="ingester",state="ACTIVE"} %d`, ingestersInCluster)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the ring: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c cluster) measure(ctx context.Context, b *Bench, load *Load) error {
	result := &b.report.Results[0]
	t := &trial{Bench: b, Server: c[len(c)-1], load: load, figure: "cluster", result: result}
	before, err := c.cpu()
	if err != nil {
		return err
	}
	profiled := t.profileAll(ctx, c)
	sent, err := t.send(ctx)
	profiled()
	if err != nil {
		return err
	}
	if _, err := t.settled(ctx); err != nil { // the third replica may still be at it
		return err
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	millions := float64(sent.Samples) / 1e6
	var all time.Duration
	for i := range after {
		all += after[i] - before[i]
	}
	last := len(after) - 1
	t.add("CPU per million samples, replicated", "s", all.Seconds()/millions)
	t.detail("of these the distributor", "s", (after[last]-before[last]).Seconds()/millions)
	t.detail("and each ingester", "s", (all-(after[last]-before[last])).Seconds()/millions/ingestersInCluster)
	t.add("samples per second", "1/s", float64(sent.Samples)/sent.Wall.Seconds())
	t.add("99th percentile of a push", "ms", sent.P99.Seconds()*1e3)
	var rss float64
	for _, s := range c {
		n, err := anonymous(s.PID)
		if err != nil {
			return err
		}
		rss += float64(n)
	}
	t.add("RAM of all per active series", "KiB", rss/float64(load.AllSeries())/1024)
	t.verify(ctx, "after the load")
	return nil
}

// profileAll starts a profile of each process, as profile does.
func (t *trial) profileAll(ctx context.Context, c cluster) (wait func()) {
	var waits []func()
	for _, s := range c {
		one := *t
		one.Server = s
		waits = append(waits, one.profile(ctx, "cluster"))
	}
	return func() {
		for _, wait := range waits {
			wait()
		}
	}
}

func (c cluster) cpu() (out []time.Duration, err error) {
	for _, s := range c {
		d, err := cpuTime(s.PID)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (c cluster) close() (err error) {
	for _, s := range slices.Backward(c) {
		err = errors.Join(err, s.Close())
	}
	return err
}
