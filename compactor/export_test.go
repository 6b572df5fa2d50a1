package compactor

// SplitAbove makes parts small, so that a test need not have millions of series.
func (c *Compactor) SplitAbove(series uint64) { c.cfg.PoolPart, c.cfg.OwnPart = series, series }
