package tenant

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRates(t *testing.T) {
	r := NewRates(1, 100)
	now := time.Now()
	allow := func(id ID, n int) time.Duration {
		ok, after := r.Allow(id, n, now)
		require.Equal(t, ok, after == 0)
		return after
	}
	require.Zero(t, allow("a", 60))
	require.Zero(t, allow("a", 40))
	require.Equal(t, 30*time.Second, allow("a", 30))
	require.Equal(t, time.Second, allow("a", 1), "what is refused takes nothing")
	require.Zero(t, allow("b", 100), "another tenant has its own")
	now = now.Add(30 * time.Second)
	require.Zero(t, allow("a", 30))
	now = now.Add(100 * time.Second)
	require.Zero(t, allow("a", 1000), "more than there ever is takes all there is")
	require.Positive(t, allow("a", 1))
}

func TestTenantsAreForgottenByRates(t *testing.T) {
	r := NewRates(20, 20)
	now := time.Now()
	for i := range 10 * rememberedRates {
		r.Allow(ID(fmt.Sprint(i)), 1, now.Add(time.Duration(i)*time.Second))
	}
	require.LessOrEqual(t, len(r.byTenant), rememberedRates)
	for i := range 3 * rememberedRates { // all of them owe something
		r.Allow(ID(fmt.Sprint("busy-", i)), 20, now.Add(24*time.Hour))
	}
	require.Greater(t, len(r.byTenant), 3*rememberedRates-1)
}
