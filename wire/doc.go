// Package wire is WHAT: the words in which the parts speak of a write, and the
// kinds of error they answer with.
//
// In come the bytes of a remote-write request, 1.0 or 2.0; out goes a Request:
// flat slices of series, samples, histograms, exemplars and metadata whose
// strings still lie in those bytes. Nothing is copied but native histograms,
// and a Request that is used again allocates nothing for floats. A series is
// its Key, by which it is found in memory, and its Hash, by which it is placed;
// both come from its tenant, names and values alone, so they are the same
// whichever protocol brings it.
//
// No input makes the walk panic, read outside the body or work much longer than
// the body's length explains; what is not protobuf is refused with the field and
// the byte where it stops making sense. Whether names, values and times make
// sense is not asked here, but by the distributor.
//
// Start reading at Request.Walk, then walk_v1.go and walk_v2.go for the two
// messages, field.go for the wire format, hash.go for Key and Hash, errors.go
// for what a tenant is told.
package wire
