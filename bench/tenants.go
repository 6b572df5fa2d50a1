package main

import (
	"context"
	"errors"
	"fmt"
)

// runTenants measures what each of many small tenants costs: how much the
// server's memory grows from empty, divided by their number.
func runTenants(ctx context.Context, b *Bench) error {
	var failed error
	for _, n := range []int{500, 10_000} {
		spec := b.spec(50, 6)
		spec.Tenants = b.scaled(n, 10)
		failed = errors.Join(failed, b.each(ctx, part{"tenants", spec, keepsTenants, tenantsTrial}))
	}
	return failed
}

func keepsTenants(t *Target) bool { return t.Multi }

func tenantsTrial(ctx context.Context, t *trial) error {
	empty, err := t.settled(ctx)
	if err != nil {
		return err
	}
	before, err := cpuTime(t.PID)
	if err != nil {
		return err
	}
	sent, err := t.send(ctx)
	if err != nil {
		return err
	}
	after, err := cpuTime(t.PID)
	if err != nil {
		return err
	}
	rss, err := t.settled(ctx)
	if err != nil {
		return err
	}
	of := fmt.Sprintf("%d tenants of %d series", t.load.Tenants, t.load.Series)
	t.add("RAM for each of "+of, "KiB", (rss-empty)/float64(t.load.Tenants)/1024)
	t.detail(fmt.Sprintf("CPU per million samples, %d tenants", t.load.Tenants), "s", (after-before).Seconds()/float64(sent.Samples)*1e6)
	t.verify(ctx, "after the load")
	return nil
}
