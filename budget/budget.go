// Package budget is the PURSE: what a tenant's templates may cost.
//
// In come templates of text/template and html/template, as alerts and
// notifications have them; out go the same with steps in them that spend a
// budget. Promises: a template that loops, or makes much of little, ends soon
// and with an error; what it makes until then is bounded, and so is the work.
// Start reading at Budget, then Functions and Bound.
package budget

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	tmpltext "text/template"
	"time"

	"golang.org/x/time/rate"
)

const (
	burst        = 32 << 20
	trial        = 8 << 20
	perSecond    = 4 << 20
	listCost     = 64      // of a block, each time it is run
	callCost     = 8 << 10 // of calling a template: deep recursion takes much memory
	compileCost  = 64      // of a byte of a regular expression
	itemCost     = 16      // of an item of a list that a function is given
	maxValue     = 1 << 20 // bytes of one value
	maxPrecision = 1000    // width of a verb of printf
)

// ErrTooMuch is in the chain of an error with which a template is stopped.
var ErrTooMuch = errors.New("it would take too much")

var (
	errSpent = fmt.Errorf("%w: the templates loop, or their output is too large", ErrTooMuch)
	errValue = fmt.Errorf("%w: a value has more than %d bytes", ErrTooMuch, maxValue)
)

// Budget is what all templates of a tenant share. It fills up again with time.
// What is spent is about a byte of output, or as much work as that takes. Safe
// for concurrent use.
//
// A template cannot be stopped from outside, so it stops itself: Bound puts
// steps into it that spend the budget. Its functions must be those of Functions,
// where these are named like others. Whatever is spent must take much less time
// than it takes to fill up again: a loop would not end otherwise.
type Budget struct{ limit *rate.Limiter }

// New makes a full Budget.
func New() *Budget { return &Budget{rate.NewLimiter(perSecond, burst)} }

// Trial makes a Budget to find out with what a template does that nobody waits
// for.
func Trial() *Budget { return &Budget{rate.NewLimiter(0, trial)} }

// Spend takes n of the budget, or returns an error with ErrTooMuch.
func (b *Budget) Spend(n int) error {
	if !b.limit.AllowN(time.Now(), n) {
		return errSpent
	}
	return nil
}

// The steps, with names that no template has.
const (
	spendCost  = "hearth_spend_cost"
	spendValue = "hearth_spend_value"
	spendArg   = "hearth_spend_arg"
)

// Functions are the steps, and functions of templates that could make a large
// value out of small ones, or work long.
func (b *Budget) Functions() map[string]any {
	return map[string]any{
		spendCost: func(n int) (string, error) { return "", b.Spend(n) },
		spendValue: func(v any) (any, error) {
			n := length(v)
			if n > maxValue {
				return nil, errValue
			}
			return v, b.Spend(n)
		},
		spendArg: func(v any) (any, error) { return v, b.Spend(extent(v)) },
		"printf": func(format string, args ...any) (string, error) {
			if err := printfSize(format, args); err != nil {
				return "", err
			}
			return fmt.Sprintf(format, args...), nil
		},
		"print":    func(args ...any) (string, error) { return within(fmt.Sprint, args) },
		"println":  func(args ...any) (string, error) { return within(fmt.Sprintln, args) },
		"html":     func(args ...any) (string, error) { return b.escape(tmpltext.HTMLEscaper, args) },
		"js":       func(args ...any) (string, error) { return b.escape(tmpltext.JSEscaper, args) },
		"urlquery": func(args ...any) (string, error) { return b.escape(tmpltext.URLQueryEscaper, args) },
		"join": func(sep string, s []string) (string, error) {
			n := len(sep) * len(s)
			for _, part := range s {
				n += len(part)
			}
			if n > maxValue {
				return "", errValue
			}
			return strings.Join(s, sep), nil
		},
		"toJson": func(v any) (string, error) {
			if length(v) > maxValue {
				return "", errValue
			}
			out, err := json.Marshal(v)
			return string(out), err
		},
		"match": func(pattern, text string) (bool, error) {
			re, err := b.compile(pattern, text)
			if err != nil {
				return false, err
			}
			return re.MatchString(text), nil
		},
		"reReplaceAll": func(pattern, repl, text string) (string, error) {
			re, err := b.compile(pattern, text)
			if err != nil {
				return "", err
			}
			// Each match is replaced by repl, in which each $ may be all of it.
			if (len(text)+1)*len(repl)+strings.Count(repl, "$")*len(text) > 4*maxValue {
				return "", errValue
			}
			return re.ReplaceAllString(text, repl), nil
		},
	}
}

// compile spends what an expression grows to, and what it may take with a text:
// at worst each byte is tried everywhere in the expression.
func (b *Budget) compile(pattern, text string) (*regexp.Regexp, error) {
	n := max(len(pattern), Expanded(pattern))
	if n > MaxExpanded {
		return nil, errExpanded
	}
	if err := b.Spend(compileCost*n + n*len(text)/2); err != nil {
		return nil, err
	}
	return regexp.Compile(pattern)
}

// escape spends what comes out. html/template wants its escapers last, where a
// template names them, so that no step can be behind them.
func (b *Budget) escape(f func(...any) string, args []any) (string, error) {
	text, err := within(f, args)
	if err == nil {
		err = b.Spend(len(text))
	}
	return text, err
}

// within calls f, which prints, if its arguments are not too large.
func within(f func(...any) string, args []any) (string, error) {
	n := 0
	for _, a := range args {
		n += length(a)
	}
	if n > maxValue {
		return "", errValue
	}
	return f(args...), nil
}

// extent is about how long a function may take for a value.
func extent(v any) int {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.String:
		return min(r.Len(), burst)
	case reflect.Slice, reflect.Map:
		return min(itemCost*r.Len(), burst)
	default:
		return 1
	}
}

// length is about that of a value when it is printed. It stops counting when it
// is too large, as a list that has itself in it many times over would be.
func length(v any) int {
	n := 0
	measure(reflect.ValueOf(v), &n, 0)
	return n
}

func measure(v reflect.Value, n *int, depth int) {
	*n += 8
	if *n > maxValue || depth > 100 {
		*n = maxValue + 1
		return
	}
	switch v.Kind() {
	case reflect.String:
		*n += v.Len()
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			measure(v.Elem(), n, depth+1)
		}
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && *n <= maxValue; i++ {
			measure(v.Index(i), n, depth+1)
		}
	case reflect.Map:
		for it := v.MapRange(); *n <= maxValue && it.Next(); {
			measure(it.Key(), n, depth+1)
			measure(it.Value(), n, depth+1)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return // points to the world's time zones
		}
		for i := range v.NumField() {
			measure(v.Field(i), n, depth+1)
		}
	}
}

var wideVerb = regexp.MustCompile(`\*|%[^a-zA-Z%]*[0-9]{4}`)

// printfSize refuses what could be too large, without printing it.
func printfSize(format string, args []any) error {
	if wideVerb.MatchString(format) {
		return fmt.Errorf("%w: printf: widths are numbers below %d here", ErrTooMuch, maxPrecision)
	}
	longest := maxPrecision
	for _, a := range args {
		longest = max(longest, 4*length(a)) // quoted, a byte may become four
	}
	if len(format)+strings.Count(format, "%")*longest > 8*maxValue {
		return errValue
	}
	return nil
}
