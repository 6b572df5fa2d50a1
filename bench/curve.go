package main

import "math"

// curveKind says how a series' value moves.
type curveKind uint8

const (
	constantCurve curveKind = iota
	counterCurve            // whole numbers, up by a jittered step
	secondsCurve            // up by a jittered step, microseconds kept
	bucketCurve             // a counter's share, as cumulative bucket
	levelCurve              // whole numbers around a level, often the same again
	pagesCurve              // bytes, walking by pages of 4 KiB
	fractionCurve           // small numbers with all digits, around a level
)

// curve yields the values of one series in order of time. Two curves with the
// same state yield the same values.
type curve struct {
	kind  curveKind
	x     float64
	step  float64
	share float64 // of a bucket in its counter; of a level, the value it is at
	still float64 // how often a counter does not move
	rng   rng
}

func constant(v float64) curve { return curve{kind: constantCurve, x: v} }

func (p *pod) counter(step float64) curve {
	return curve{kind: counterCurve, x: math.Floor(step * 1000 * p.rng.float()), step: step, still: p.still, rng: p.rng.fork()}
}

func (p *pod) seconds(step float64) curve {
	return curve{kind: secondsCurve, x: step * 1000 * p.rng.float(), step: step, still: p.still, rng: p.rng.fork()}
}

func (p *pod) level(around float64) curve {
	return curve{kind: levelCurve, x: around, step: around / 10, rng: p.rng.fork()}
}

func (p *pod) pages(around float64) curve {
	return curve{kind: pagesCurve, x: math.Floor(around*(0.5+p.rng.float())/4096) * 4096, step: 64, rng: p.rng.fork()}
}

func (p *pod) fraction(around float64) curve {
	return curve{kind: fractionCurve, x: around, rng: p.rng.fork()}
}

// next returns the value of the next sample.
func (c *curve) next() float64 {
	switch c.kind {
	case counterCurve:
		c.x += math.Floor(c.move())
	case secondsCurve:
		c.x = math.Round((c.x+c.move())*1e6) / 1e6
	case bucketCurve:
		c.x += math.Floor(c.move())
		return math.Floor(c.x * c.share)
	case levelCurve:
		if c.share == 0 || c.rng.intn(3) == 0 {
			c.share = math.Floor(c.x + c.step*(c.rng.float()-0.5))
		}
		return c.share
	case pagesCurve:
		// About every third sample the process has grown or shrunk.
		if c.rng.intn(3) == 0 {
			c.x = max(0, c.x+4096*math.Floor(c.step*(c.rng.float()-0.5)))
		}
	case fractionCurve:
		return c.x * (0.5 + c.rng.float())
	}
	return c.x
}

// move draws how far a counter goes up.
func (c *curve) move() float64 {
	if c.still > 0 && c.rng.float() < c.still {
		return 0
	}
	return c.step * (0.5 + c.rng.float())
}

// rng is splitmix64: eight bytes of state for each of a million series, and
// the same numbers on every run.
type rng uint64

func newRNG(seed uint64) rng {
	r := rng(seed * 0x9e3779b97f4a7c15)
	r.uint64()
	return r
}

func (r *rng) uint64() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *rng) fork() rng      { return rng(r.uint64()) }
func (r *rng) intn(n int) int { return int(r.uint64() % uint64(n)) }
func (r *rng) float() float64 { return float64(r.uint64()>>11) / (1 << 53) }

// hash draws n characters as Kubernetes puts behind the names of pods.
func hash(r *rng, n int) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.intn(len(alphabet))]
	}
	return string(b)
}
