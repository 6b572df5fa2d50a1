package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/admin"
)

// apiTimeout bounds one request to the API.
const apiTimeout = time.Minute

// caller is a client of the API, for the subcommands.
type caller struct {
	addr, tokenFile, output string
	tenant                  string // "": that of the token, or none
	stdout                  io.Writer
}

// commands are the subcommands, by noun and verb.
func commands() map[string]map[string]func(*caller, []string) error {
	return map[string]map[string]func(*caller, []string) error{
		"tenant": {"create": tenantCreate, "list": tenantList, "show": tenantShow, "update": tenantUpdate, "delete": tenantDelete, "undelete": tenantUndelete, "limits": tenantLimits},
		"token":  {"create": tokenCreate, "list": tokenList, "revoke": tokenRevoke, "rotate": tokenRotate},
		"plan":   {"set": planSet, "list": planList, "delete": planDelete},
		"usage":  {"show": usageShow},
		"audit":  {"show": auditShow},
		"blocks": {"upload": blocksUpload, "list": blocksList, "verify": blocksVerify, "copy": blocksCopy, "mark": blocksMark, "export": blocksExport},
		"rules":  {"load": rulesLoad, "diff": rulesDiff, "sync": rulesSync, "check": rulesCheck, "test": rulesTest, "get": rulesGet, "delete": rulesDelete},
	}
}

// runCommand runs a subcommand; ok is false if the arguments name none.
func runCommand(args []string, stdout, stderr io.Writer) (code int, ok bool) {
	if len(args) == 0 {
		return 0, false
	}
	verbs, ok := commands()[args[0]]
	if !ok {
		return 0, false
	}
	verb, rest := "show", args[1:]
	if len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && (len(verbs) > 1 || verbs[rest[0]] != nil) {
		verb, rest = rest[0], rest[1:]
	}
	run := verbs[verb]
	if run == nil {
		fmt.Fprintf(stderr, "hearth %s: there is no %q, there are %s\n", args[0], verb, strings.Join(sortedKeys(verbs), ", "))
		return exitUsage, true
	}
	c := &caller{stdout: stdout}
	var other exit
	switch err := run(c, rest); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK, true
	case errors.As(err, &other):
		if other.err != nil {
			fmt.Fprintf(stderr, "hearth %s %s: %v\n", args[0], verb, other.err)
		}
		return other.code, true
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "hearth %s %s: %v\n", args[0], verb, err)
		return exitUsage, true
	default:
		fmt.Fprintf(stderr, "hearth %s %s: %v\n", args[0], verb, err)
		return exitFailure, true
	}
}

var errUsage = errors.New("wrong use")

// exit ends the process with a code that means something of its own.
type exit struct {
	code int
	err  error // nil: the reason is in the output
}

func (e exit) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// flags are what every subcommand has.
func (c *caller) flags(name string) *flag.FlagSet {
	fs := c.localFlags(name)
	fs.StringVar(&c.addr, "address", envOr("HEARTH_ADDRESS", "http://127.0.0.1:9009"), "`URL` of Hearth; also HEARTH_ADDRESS")
	fs.StringVar(&c.tokenFile, "token-file", os.Getenv("HEARTH_TOKEN_FILE"), "`file` with a token, an operator's but for rules; also HEARTH_TOKEN_FILE. The token itself can be in HEARTH_TOKEN")
	fs.StringVar(&c.output, "o", "table", "how to print: table or json")
	return fs
}

// localFlags are those of a subcommand that asks nobody.
func (c *caller) localFlags(name string) *flag.FlagSet {
	c.output = "table"
	return flag.NewFlagSet("hearth "+name, flag.ContinueOnError)
}

// parse parses flags and as many names.
func (c *caller) parse(fs *flag.FlagSet, args []string, names int) ([]string, error) {
	got, err := c.parseAny(fs, args)
	if err == nil && len(got) != names {
		return nil, fmt.Errorf("%w: want %d names, got %d", errUsage, names, len(got))
	}
	return got, err
}

// parseAny parses flags, which may stand before and after the names.
func (c *caller) parseAny(fs *flag.FlagSet, args []string) (got []string, err error) {
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		if args = fs.Args(); len(args) > 0 {
			got, args = append(got, args[0]), args[1:]
		}
	}
	if c.output != "table" && c.output != "json" {
		return nil, fmt.Errorf("%w: -o: want table or json, got %q", errUsage, c.output)
	}
	return got, nil
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// token is what the caller says who he is with; "" for nothing.
func (c *caller) token() (string, error) {
	if t := os.Getenv("HEARTH_TOKEN"); t != "" || c.tokenFile == "" {
		return t, nil
	}
	text, err := os.ReadFile(c.tokenFile)
	return strings.TrimSpace(string(text)), err
}

// call sends a request and decodes its answer, which it prints as it is where
// JSON is wanted. It then returns false.
func (c *caller) call(method, path string, body, into any) (table bool, err error) {
	var raw []byte
	if body != nil {
		if raw, err = json.Marshal(body); err != nil {
			return false, err
		}
	}
	text, err := c.send(method, path, raw)
	if err != nil {
		return false, err
	}
	if c.output == "json" {
		_, err := c.stdout.Write(text)
		return false, err
	}
	if into == nil || len(text) == 0 {
		return true, nil
	}
	return true, json.Unmarshal(text, into)
}

// send sends a request and returns its answer, or the error that it tells.
func (c *caller) send(method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.addr, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if c.tenant != "" {
		req.Header.Set(tenant.Header, c.tenant)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= http.StatusBadRequest {
		err = &refusal{res.StatusCode, problem(res.Status, text)}
	}
	return text, err
}

// refusal is an answer that is an error.
type refusal struct {
	status int
	error
}

// problem is the error that an answer tells: JSON from the API, text from the
// door.
func problem(status string, text []byte) error {
	var p admin.Problem
	if json.Unmarshal(text, &p) == nil && p.ID != "" {
		return fmt.Errorf("%s (%s)", p.Message, p.ID)
	}
	return fmt.Errorf("%s: %s", status, strings.TrimSpace(string(text)))
}

// table prints rows in columns.
func (c *caller) table(header string, rows func(row func(cells ...any))) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(header, " ", "\t"))
	rows(func(cells ...any) {
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			if t, ok := cell.(time.Time); ok {
				cell = shortTime(t)
			}
			if s := fmt.Sprint(cell); s != "" {
				fmt.Fprint(w, s)
				continue
			}
			fmt.Fprint(w, "-")
		}
		fmt.Fprintln(w)
	})
	return w.Flush()
}

func shortTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
