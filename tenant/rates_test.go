package tenant

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRates(t *testing.T) {
	var r Rates
	now := time.Now()
	require.True(t, r.Of("a", 1, 100, now).AllowN(now, 60))
	require.True(t, r.Of("a", 1, 100, now).AllowN(now, 40))
	require.False(t, r.Of("a", 1, 100, now).AllowN(now, 1))
	require.True(t, r.Of("b", 1, 100, now).AllowN(now, 100), "another tenant has its own")
	now = now.Add(time.Second)
	require.True(t, r.Of("a", 10, 100, now).AllowN(now, 1), "what was saved up stays when the rate changes")
	require.False(t, r.Of("a", 10, 100, now).AllowN(now, 1))
	now = now.Add(time.Second)
	require.True(t, r.Of("a", 10, 100, now).AllowN(now, 10))
}

func TestFullBucketsAreDropped(t *testing.T) {
	var r Rates
	now := time.Now()
	for i := range 10 * rememberedRates {
		at := now.Add(time.Duration(i) * time.Second)
		r.Of(ID(fmt.Sprint(i)), 20, 20, at).AllowN(at, 1)
	}
	require.LessOrEqual(t, len(r.byTenant), rememberedRates)
	now = now.Add(24 * time.Hour)
	for i := range 3 * rememberedRates {
		r.Of(ID(fmt.Sprint("busy-", i)), 20, 20, now).AllowN(now, 20)
	}
	for i := range 3 * rememberedRates {
		require.NotNil(t, r.byTenant[ID(fmt.Sprint("busy-", i))], "all of them owe something")
	}
}
