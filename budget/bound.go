package budget

import (
	"fmt"
	"math/bits"
	"slices"
	"text/template/parse"
)

// Bound puts the steps into a template.
func Bound(t *parse.Tree) {
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
			boundPipe(n.Pipe)
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
	boundPipe(n.Pipe)
	boundList(n.List)
	boundList(n.ElseList)
}

// boundAction has a value spend what it is long. Escapers spend it themselves.
func boundAction(p *parse.PipeNode) {
	last := p.Cmds[len(p.Cmds)-1]
	boundPipe(p)
	if !calls(last, escapers) {
		p.Cmds = append(p.Cmds, valueStep)
	}
}

var (
	escapers = []string{"html", "urlquery"}
	// quick are functions that take no longer for what is large.
	quick = []string{"len", "index", "slice", "and", "or", "not", "first", "label", "value", "strvalue", "args", "list", "dict"}
)

func calls(c *parse.CommandNode, functions []string) bool {
	id, ok := c.Args[0].(*parse.IdentifierNode)
	return ok && slices.Contains(functions, id.Ident)
}

// boundPipe has what functions are given spend as long as they may take for it.
func boundPipe(p *parse.PipeNode) {
	if p == nil {
		return
	}
	var cmds []*parse.CommandNode
	for i, c := range p.Cmds {
		if i > 0 && !calls(c, quick) {
			cmds = append(cmds, argStep)
		}
		cmds = append(cmds, c)
		boundArgs(c)
	}
	p.Cmds = cmds
}

func boundArgs(c *parse.CommandNode) {
	function := len(c.Args) > 1 && !calls(c, quick)
	for i, arg := range c.Args {
		pipe, ok := arg.(*parse.PipeNode)
		if ok {
			boundPipe(pipe)
		}
		switch chain := arg.(type) {
		case *parse.ChainNode:
			if pipe, ok := chain.Node.(*parse.PipeNode); ok {
				boundPipe(pipe)
			}
		case *parse.PipeNode, *parse.VariableNode, *parse.FieldNode, *parse.DotNode:
		default:
			continue // a constant, or the name of a function
		}
		if !function || i == 0 {
			continue
		}
		if pipe == nil {
			first := &parse.CommandNode{NodeType: parse.NodeCommand, Pos: arg.Position(), Args: []parse.Node{arg}}
			pipe = &parse.PipeNode{NodeType: parse.NodePipe, Pos: arg.Position(), Cmds: []*parse.CommandNode{first}}
			c.Args[i] = pipe
		}
		pipe.Cmds = append(pipe.Cmds, argStep)
	}
}

// The steps are shared by all templates: there is one for each power of two of
// a cost, which is rounded up. Nobody changes them: html/template leaves
// assignments and commands as they are.
var (
	costSteps = makeCostSteps()
	valueStep = stepOf(fmt.Sprintf("{{0 | %s}}", spendValue)).(*parse.ActionNode).Pipe.Cmds[1]
	argStep   = stepOf(fmt.Sprintf("{{0 | %s}}", spendArg)).(*parse.ActionNode).Pipe.Cmds[1]
)

func makeCostSteps() (steps [bits.UintSize + 1]parse.Node) {
	for i := range steps {
		cost := min(1<<min(i, 30), burst+1) // one that is never there
		steps[i] = stepOf(fmt.Sprintf("{{$hearth := %s %d}}", spendCost, cost))
	}
	return steps
}

var stepNames = map[string]any{spendCost: 0, spendValue: 0, spendArg: 0}

// stepOf is the node that a text of one step is parsed to.
func stepOf(text string) parse.Node {
	trees, err := parse.Parse("step", text, "", "", stepNames)
	if err != nil {
		panic(fmt.Sprintf("BUG: %s: %v", text, err))
	}
	return trees["step"].Root.Nodes[0]
}
