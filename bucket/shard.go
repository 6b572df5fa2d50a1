package bucket

import (
	"fmt"
	"strconv"
	"strings"
)

// ShardLabel is where meta.json keeps which part of the series a block has,
// among Thanos' labels; in an index it is CompactorShardID. As in Mimir the
// value is "<number>_of_<count>", and numbers begin at 1.
const ShardLabel = "__compactor_shard_id__"

// ShardID names a part, from 0 on, of n.
func ShardID(part, n int) string { return fmt.Sprintf("%d_of_%d", part+1, n) }

// ParseShardID is the inverse of ShardID. A block that is not one of several
// parts, or whose label has another form, is part 0 of 1.
func ParseShardID(id string) (part, n int) {
	number, count, ok := strings.Cut(id, "_of_")
	if !ok {
		return 0, 1
	}
	part, err1 := strconv.Atoi(number)
	n, err2 := strconv.Atoi(count)
	if err1 != nil || err2 != nil || part < 1 || part > n {
		return 0, 1
	}
	return part - 1, n
}
