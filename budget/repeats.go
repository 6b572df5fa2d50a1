package budget

import (
	"fmt"
	"regexp"
	"strconv"
)

// A regular expression that counts, as (x|y){1,900}, is compiled to as many
// copies of what it repeats: a short text can take much memory, and seconds. So
// what they grow to is bounded, before any is compiled.
const (
	// MaxExpanded is how long one may get that comes with a request or a template.
	MaxExpanded = 256 << 10

	maxCount = 1000 // regexp refuses more, nested ones multiplied
)

var errExpanded = fmt.Errorf("%w: the regular expression repeats too much", ErrTooMuch)

var counted = regexp.MustCompile(`\{(\d+)(?:,(\d*))?\}`)

// Expanded is about how long a regular expression gets, at most; 0 if it does
// not count.
func Expanded(text string) int {
	product := 0
	for _, m := range counted.FindAllStringSubmatch(text, -1) {
		n := 1
		for _, digits := range m[1:] {
			if v, err := strconv.Atoi(digits); err == nil {
				n = max(n, min(v, maxCount))
			}
		}
		product = min(max(product, 1)*n, maxCount)
	}
	return product * len(text)
}
