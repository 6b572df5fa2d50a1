package wire

import (
	"strings"
	"unicode/utf8"
)

// MaxMetadataText is how long the name of a metric may be in metadata, and how
// much of a help text or a unit is kept, in bytes.
const MaxMetadataText = 1024

// CleanMetadata takes out metadata without a valid name of a metric, for each
// of which it calls refused, if not nil, and shortens long texts.
func (r *Request) CleanMetadata(refused func()) {
	kept := r.Metadata[:0]
	for _, m := range r.Metadata {
		if m.Family == "" || m.Family[0] == 0 || len(m.Family) > MaxMetadataText || !utf8.ValidString(m.Family) {
			if refused != nil {
				refused()
			}
			continue
		}
		m.Help, m.Unit = shorten(m.Help), shorten(m.Unit)
		kept = append(kept, m)
	}
	r.Metadata = kept
}

func shorten(s string) string {
	if len(s) > MaxMetadataText {
		s = s[:MaxMetadataText]
	}
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "")
}
