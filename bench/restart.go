package main

import "context"

// runRestart measures how long a killed server with a million series in its
// log needs until it serves again.
func runRestart(ctx context.Context, b *Bench) error {
	return b.each(ctx, part{"restart", b.spec(b.scaled(1_000_000, 1000), 3), canStart, restartTrial})
}

func canStart(t *Target) bool { return len(t.Cmd) > 0 }

func restartTrial(ctx context.Context, t *trial) error {
	if _, err := t.send(ctx); err != nil {
		return err
	}
	t.verify(ctx, "before the kill")
	if err := t.Kill(); err != nil {
		return err
	}
	took, err := t.Start(ctx)
	if err != nil {
		return err
	}
	cpu, err := cpuTime(t.PID)
	if err != nil {
		return err
	}
	t.add("ready again after SIGKILL", "s", took.Seconds())
	t.detail("CPU of it", "s", cpu.Seconds())
	t.verify(ctx, "after the restart")
	return nil
}
