package bucket

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShardID(t *testing.T) {
	t.Parallel()
	require.Equal(t, "2_of_4", ShardID(1, 4))
	for id, want := range map[string][2]int{
		"1_of_1": {0, 1}, "2_of_4": {1, 4}, "16_of_16": {15, 16},
		"": {0, 1}, "x": {0, 1}, "0_of_4": {0, 1}, "5_of_4": {0, 1}, "1_of_": {0, 1}, "_of_": {0, 1}, "1_of_2_of_3": {0, 1},
	} {
		part, n := ParseShardID(id)
		require.Equal(t, want, [2]int{part, n}, "%q", id)
	}
}
