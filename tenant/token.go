package tenant

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// A token reads hearth_<id>_<secret>. The prefix makes a leaked one easy to
// find. The id, in hexadecimal digits, begins with the number of the shard that
// keeps the record, so that a token is found at once. The secret is 256 random
// bits and a checksum of all before it, which tells a token that was cut off
// or mistyped from one that is wrong, without a look at the registry.
//
// Kept is the SHA-256 of the secret. A slow hash, as for passwords, protects
// what can be guessed; 256 random bits cannot.
const (
	tokenPrefix = "hearth_"
	idBytes     = 9
	secretBytes = 32
)

var (
	encoding  = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	secretLen = encoding.EncodedLen(secretBytes + crc32.Size)
)

// tokenEntry is a token as the registry keeps it.
type tokenEntry struct {
	Token
	hash   [sha256.Size]byte
	policy []*labels.Matcher
}

// principal is who shows the token.
func (t *tokenEntry) principal() *Principal {
	p := &Principal{name: "token " + t.ID, scopes: t.Scopes, policy: t.policy}
	if t.Tenant != "" {
		p.tenants = []ID{t.Tenant}
	}
	return p
}

// mintID makes the id of a new token in a shard.
func mintID(shard int) string {
	var b [idBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] = byte(shard)
	return hex.EncodeToString(b[:])
}

// shardOfToken is the number of the shard that the id names, if there can be
// such a token.
func shardOfToken(id string) (int, bool) {
	b, err := hex.DecodeString(id)
	if err != nil || len(b) != idBytes || int(b[0]) >= shards {
		return 0, false
	}
	return int(b[0]), true
}

// mintSecret makes the text of a new secret, and what is kept of it.
func mintSecret(id string) (text string, hash [sha256.Size]byte) {
	b := make([]byte, secretBytes, secretBytes+crc32.Size)
	_, _ = rand.Read(b) // never fails
	hash = sha256.Sum256(b)
	b = binary.BigEndian.AppendUint32(b, checksum(id, b))
	return tokenPrefix + id + "_" + encoding.EncodeToString(b), hash
}

func checksum(id string, secret []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE([]byte(id)), crc32.IEEETable, secret)
}

// readToken takes a token's text apart.
func readToken(text string) (id string, hash [sha256.Size]byte, ok bool) {
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(rest) != 2*idBytes+1+secretLen || rest[2*idBytes] != '_' {
		return "", hash, false
	}
	id = rest[:2*idBytes]
	b, err := encoding.DecodeString(rest[2*idBytes+1:])
	if err != nil || binary.BigEndian.Uint32(b[secretBytes:]) != checksum(id, b[:secretBytes]) {
		return "", hash, false
	}
	return id, sha256.Sum256(b[:secretBytes]), true
}

// isSecret says whether a hash is that of the token's secret, in a time that
// does not depend on how far the two agree.
func (t *tokenEntry) isSecret(hash [sha256.Size]byte) bool {
	return subtle.ConstantTimeCompare(t.hash[:], hash[:]) == 1
}
