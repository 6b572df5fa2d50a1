package wire

// LeaveOut takes the label called name out of the series that check is being
// asked about, and returns the labels that are left. Key, Hash and Labels are
// then those of a series that never had the label. Only check calls it, with
// the s that it was given, and with one name for all of a request.
func (r *Request) LeaveOut(s *Series, name string) []Label {
	if r.without != name {
		if r.without != "" {
			panic("BUG: a request leaves out " + r.without + " and " + name)
		}
		r.without = name
	}
	ls := &r.labels
	lo, hi := find(ls.list, name)
	if lo == hi {
		return ls.list
	}
	s.without = true
	if ls.plain {
		ls.cutLo = ls.lo + canonicalLenOf(ls.list[:lo])
		ls.cutHi = ls.cutLo + canonicalLenOf(ls.list[lo:hi])
	}
	for _, l := range ls.list[lo:hi] {
		ls.bytes -= len(l.Name) + len(l.Value)
	}
	ls.list = append(ls.list[:lo], ls.list[hi:]...)
	return ls.list
}

// Without is the label that LeaveOut has left out of series, or "". Who walks
// a copy of the request's bytes has to leave it out again. Where AppendPart
// does not copy bytes but writes what Labels says, there is nothing left to do,
// and Without is "".
func (r *Request) Without() string {
	if r.Altered {
		return ""
	}
	return r.without
}

// find returns where labels of a name are: list[lo:hi]. In a sorted list that
// is all of them.
func find(list []Label, name string) (lo, hi int) {
	for lo < len(list) && list[lo].Name != name {
		lo++
	}
	hi = lo
	for hi < len(list) && list[hi].Name == name {
		hi++
	}
	return lo, hi
}

// canonicalLenOf is the length of the canonical form of labels.
func canonicalLenOf(list []Label) (n int) {
	for i := range list {
		n += canonicalLen(list[i].Name, list[i].Value)
	}
	return n
}
