package alertmanager

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"reflect"
	"regexp"
	"strings"
	"text/template/parse"
	"time"

	"golang.org/x/time/rate"
)

// A template cannot be stopped from outside, so it stops itself: bound puts
// steps into it that spend a budget, which all templates of a tenant share and
// which fills up again with time. What is spent is about a byte of output, or
// as much work as that takes.
const (
	budgetBurst  = 32 << 20
	budgetRate   = 4 << 20 // per second
	listCost     = 64      // of a block, each time it is run
	callCost     = 8 << 10 // of calling a template: deep recursion takes much memory
	maxValue     = 1 << 20 // bytes of one value
	maxPrecision = 1000    // width of a verb of printf
)

var (
	errBudget = errors.New("the templates do too much: they loop, or their output is too large")
	errValue  = fmt.Errorf("a value has more than %d bytes", maxValue)
)

type budget struct{ limit *rate.Limiter }

func newBudget() *budget { return &budget{rate.NewLimiter(budgetRate, budgetBurst)} }

func (b *budget) spend(n int) error {
	if !b.limit.AllowN(time.Now(), n) {
		return errBudget
	}
	return nil
}

// The steps, with names that no template has.
const (
	spendCost  = "hearth_spend_cost"
	spendValue = "hearth_spend_value"
)

// functions are the steps, and functions of templates that could make a large
// value out of small ones.
func (b *budget) functions() map[string]any {
	return map[string]any{
		spendCost: func(n int) (string, error) { return "", b.spend(n) },
		spendValue: func(v any) (any, error) {
			n := length(v)
			if n > maxValue {
				return nil, errValue
			}
			return v, b.spend(n)
		},
		"printf": func(format string, args ...any) (string, error) {
			if err := printfSize(format, args); err != nil {
				return "", err
			}
			return fmt.Sprintf(format, args...), nil
		},
		"print":   func(args ...any) (string, error) { return within(fmt.Sprint, args) },
		"println": func(args ...any) (string, error) { return within(fmt.Sprintln, args) },
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
		"reReplaceAll": func(pattern, repl, text string) (string, error) {
			re, err := regexp.Compile(pattern)
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
		return fmt.Errorf("printf: %q: widths are numbers below %d here", cutText(format), maxPrecision)
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

// bound puts the steps into a template.
func bound(t *parse.Tree) {
	if t != nil {
		boundList(t.Root)
	}
}

func boundList(l *parse.ListNode) {
	if l == nil {
		return
	}
	cost := listCost
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			cost += len(n.Text)
		case *parse.TemplateNode:
			cost += callCost
		case *parse.ActionNode:
			boundAction(n.Pipe)
		case *parse.IfNode:
			boundBranch(&n.BranchNode)
		case *parse.RangeNode:
			boundBranch(&n.BranchNode)
		case *parse.WithNode:
			boundBranch(&n.BranchNode)
		}
	}
	l.Nodes = append([]parse.Node{costSteps[bits.Len(uint(cost))]}, l.Nodes...)
}

func boundBranch(n *parse.BranchNode) {
	boundList(n.List)
	boundList(n.ElseList)
}

// boundAction has a value spend what it is long. html/template wants to have its own
// escapers last where a template names them, which make nothing longer than a
// few times.
func boundAction(p *parse.PipeNode) {
	for _, c := range p.Cmds {
		if id, ok := c.Args[0].(*parse.IdentifierNode); ok && (id.Ident == "html" || id.Ident == "urlquery") {
			return
		}
	}
	p.Cmds = append(p.Cmds, valueStep)
}

// The steps are shared by all templates: there is one for each power of two of
// a cost, which is rounded up. Nobody changes them: html/template leaves
// assignments and commands as they are.
var (
	costSteps = makeCostSteps()
	valueStep = stepOf(fmt.Sprintf("{{0 | %s}}", spendValue)).(*parse.ActionNode).Pipe.Cmds[1]
)

func makeCostSteps() (steps [bits.UintSize + 1]parse.Node) {
	for i := range steps {
		cost := min(1<<min(i, 30), budgetBurst+1) // one that is never there
		steps[i] = stepOf(fmt.Sprintf("{{$hearth := %s %d}}", spendCost, cost))
	}
	return steps
}

var stepNames = map[string]any{spendCost: 0, spendValue: 0}

// stepOf is the node that a text of one step is parsed to.
func stepOf(text string) parse.Node {
	trees, err := parse.Parse("step", text, "", "", stepNames)
	if err != nil {
		panic(fmt.Sprintf("BUG: %s: %v", text, err))
	}
	return trees["step"].Root.Nodes[0]
}
