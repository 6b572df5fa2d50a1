package compactor

import (
	"sync"
	"time"
)

const (
	firstPause = time.Minute
	maxPause   = 2 * time.Hour
)

// backoff remembers what has failed, and when to try it again.
type backoff struct {
	mu       sync.Mutex
	failures map[string]failure
}

type failure struct {
	times int
	until time.Time
}

func newBackoff() *backoff {
	return &backoff{failures: map[string]failure{}}
}

func (b *backoff) ready(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !now.Before(b.failures[key].until)
}

// note remembers how a try has ended.
func (b *backoff) note(key string, now time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		delete(b.failures, key)
		return
	}
	f := b.failures[key]
	f.until = now.Add(min(firstPause<<min(f.times, 10), maxPause))
	f.times++
	b.failures[key] = f
}
