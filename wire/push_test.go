package wire

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRefusals(t *testing.T) {
	var r Refusals
	described := 0
	add := func(id string, n int) {
		r.Add(id, n, func() *UserError { described++; return Errorf(Invalid, id, "first of %s", id) })
	}
	add("err-a", 0)
	require.Nil(t, r.First)
	add("err-a", 2)
	add("err-b", 1)
	add("err-a", 1)
	require.Equal(t, 1, described, "only the first is written out")
	require.Equal(t, "first of err-a (err-a)", r.First.Error())
	var all Refusals
	all.Add("err-b", 4, func() *UserError { return Errorf(Invalid, "err-b", "b") })
	all.Merge(&r)
	require.Equal(t, []RefusalCount{{"err-b", 5}, {"err-a", 3}}, all.Counts)
	require.Equal(t, 8, all.Total())
	require.Equal(t, "err-b", all.First.ID)
}

func TestSeriesString(t *testing.T) {
	for want, ls := range map[string][]Label{
		`{}`:                    nil,
		`m`:                     {{"__name__", "m"}},
		`{a="1"}`:               {{"a", "1"}},
		`m{a="1", b="x\"y"}`:    {{"__name__", "m"}, {"a", "1"}, {"b", `x"y`}},
		`"a b"{"\x00t"="\xff"}`: {{"__name__", "a b"}, {"\x00t", "\xff"}},
	} {
		require.Equal(t, want, SeriesString(ls))
	}
	long := SeriesString([]Label{{"__name__", strings.Repeat("m", 5000)}, {"a", strings.Repeat("x", 5000)}})
	require.Less(t, len(long), 1000)
	var many []Label
	for i := range 10_000 {
		many = append(many, Label{fmt.Sprint("l", i), "v"})
	}
	require.Less(t, len(SeriesString(many)), 2000)
}

func TestHTTPErrors(t *testing.T) {
	for _, c := range []struct {
		err   error
		code  int
		text  string
		retry string
	}{
		{fmt.Errorf("push: %w", Errorf(Invalid, "err-x", "bad %d", 7)), 400, "bad 7 (err-x)", ""},
		{&UserError{Kind: Limited, ID: "err-y", Msg: "slow down", RetryAfter: 1100 * time.Millisecond}, 429, "slow down (err-y)", "2"},
		{Errorf(TooLarge, "err-z", "big"), 413, "big (err-z)", ""},
		{context.DeadlineExceeded, 503, "deadline", ""},
		{errors.New("secret path /x"), 500, "internal error", ""},
	} {
		w := httptest.NewRecorder()
		WriteHTTPError(w, c.err)
		require.Equal(t, c.code, w.Code)
		require.Contains(t, w.Body.String(), c.text)
		require.NotContains(t, w.Body.String(), "secret")
		require.Equal(t, c.retry, w.Header().Get("Retry-After"))
	}
}
