package main

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestPaceKeepsSendersTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, at := newPace(2), 0
		var mu sync.Mutex
		go func() {
			defer p.leave(0)
			for step := range 100 {
				p.enter(0, step)
				mu.Lock()
				at = step
				mu.Unlock()
			}
		}()
		reached := func() int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return at
		}
		require.Equal(t, maxAhead, reached())
		p.enter(1, 5)
		require.Equal(t, 5+maxAhead, reached())
		p.leave(1)
		require.Equal(t, 99, reached())
	})
}
