package buckettest

// Fault is what a Proxy does to a request.
type Fault string

// The faults. With Refuse, SlowDown, ResetBefore, Hang, BadGateway and
// EarlyRefusal the server does not see the request.
const (
	Pass         Fault = "pass"          // nothing
	Refuse       Fault = "refuse"        // 500 without asking the server
	SlowDown     Fault = "slow down"     // 503 as S3 says it
	LoseAnswer   Fault = "lose answer"   // the server acts, the client gets 500
	ResetBefore  Fault = "reset before"  // the connection breaks, nothing happened
	ResetAfter   Fault = "reset after"   // the connection breaks when the server has acted
	Truncate     Fault = "truncate"      // half of the answer's body, then a reset
	TruncateEnd  Fault = "truncate end"  // half of the answer's body, then an orderly end
	Hang         Fault = "hang"          // no answer ever
	HangInBody   Fault = "hang in body"  // half of the answer's body, then nothing ever
	Dribble      Fault = "dribble"       // the answer in small pieces
	Slow         Fault = "slow"          // the answer, but a second later
	ShortLength  Fault = "short length"  // half of the answer's body, and a length that says so
	IgnoreRange  Fault = "ignore range"  // the whole object whatever was asked
	BadGateway   Fault = "bad gateway"   // 502 with a page of text
	EarlyRefusal Fault = "early refusal" // 503 before the body was read
)

// Failures lists the faults that a client can tell from an answer, and mend by
// asking again.
func Failures() []Fault {
	return []Fault{Refuse, SlowDown, LoseAnswer, ResetBefore, ResetAfter, Truncate, TruncateEnd, Hang, HangInBody, BadGateway, EarlyRefusal}
}
