package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/zeebo/xxh3"
)

// A series is hashed in its canonical form, whichever way it came: its labels,
// sorted by name and none of them empty, each written as remote write 1.0
// writes it when it leaves nothing out and makes nothing longer than it need be:
//
//	0x0a length { 0x0a length name 0x12 length value }
//
// with lengths as varints. No two label sets have the same form, for every part
// has its length in front. A 1.0 sender sends exactly that, so there is mostly
// nothing to copy before it can be hashed.

// Key finds a series in memory: 128 bits that stand for the tenant and the
// labels. With seed and rest for the first 8 and the other bytes of the Secret,
// it is xxh3(seed, canonical form of the labels) xor sha256(rest, tenant). Who
// does not know the secret cannot choose labels whose Key is that of another
// tenant's series, as a tenant's own part is as good as random to him; the most
// he could find is two label sets of his own with one Key.
type Key [2]uint64

// Secret is what Keys are made with. Members with the same secret can speak of
// series by their Keys.
type Secret [32]byte

// NewSecret draws a secret.
func NewSecret() (s Secret) {
	_, _ = rand.Read(s[:]) // cannot fail
	return s
}

// named is a secret with what tells it from others.
type named struct {
	Secret
	id uint64
}

var (
	secret    atomic.Pointer[named]
	useSecret sync.Once
)

func init() { setSecret(NewSecret()) }

func setSecret(s Secret) {
	sum := sha256.Sum256(append(s[:], "\xffthe secret's name"...)) // no tenant is called that
	secret.Store(&named{s, binary.LittleEndian.Uint64(sum[:])})
}

// UseSecret has all Keys of this process made with a secret, which is one of
// its own otherwise. It is called before there are any; only the first call
// counts.
func UseSecret(s Secret) { useSecret.Do(func() { setSecret(s) }) }

// SecretID tells whether another process has the same secret, and not which.
func SecretID() uint64 { return secret.Load().id }

// tenantHash is the part of the tenant in the Key and the Hash of its series.
type tenantHash struct {
	seed uint64
	key  Key
	hash uint64
}

func hashTenant(tenant string) tenantHash {
	var few [128]byte
	s := &secret.Load().Secret
	sum := sha256.Sum256(append(append(few[:0], s[8:]...), tenant...))
	return tenantHash{
		seed: binary.LittleEndian.Uint64(s[:]),
		key:  Key{binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])},
		hash: xxhash.Sum64String(tenant),
	}
}

// keyOf and hashOf name the tenant's series with these labels in canonical form.
func (t tenantHash) keyOf(canonical []byte) Key {
	h := xxh3.Hash128Seed(canonical, t.seed)
	return Key{h.Hi ^ t.key[0], h.Lo ^ t.key[1]}
}

func (t tenantHash) hashOf(canonical []byte) uint64 {
	return mix(xxhash.Sum64(canonical) + t.hash)
}

// mix spreads every bit of x over all of them, so that the same labels of two
// tenants are at unrelated places: the last step of xxhash64.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xc2b2ae3d27d4eb4f
	x ^= x >> 29
	x *= 0x165667b19e3779f9
	return x ^ x>>32
}

// KeyOf is the Key of a tenant's series.
func KeyOf(tenant string, ls labels.Labels) Key {
	var few [1024]byte
	return hashTenant(tenant).keyOf(appendLabels(few[:0], ls))
}

// HashOf is the hash by which a tenant's series is placed. It is the same in
// every process, protocol and version of Hearth, and must stay so: replicas
// find a series by it. With xxh for xxhash64 with seed 0, and mix for its last
// step, it is mix(xxh(canonical form of the labels) + xxh(tenant)).
func HashOf(tenant string, ls labels.Labels) uint64 {
	var few [1024]byte
	return hashTenant(tenant).hashOf(appendLabels(few[:0], ls))
}

// Token is the place of a series in the ring, from its hash.
func Token(hash uint64) uint32 { return uint32(hash >> 32) }

func appendLabels(canonical []byte, ls labels.Labels) []byte {
	ls.Range(func(l labels.Label) {
		if l.Value != "" {
			canonical = appendCanonicalLabel(canonical, l.Name, l.Value)
		}
	})
	return canonical
}

// Names are ways to name a series.
type Names uint8

// Keys find series in memory (see Key), Hashes place them (see HashOf).
const (
	Keys Names = 1 << iota
	Hashes
)

// appendCanonical appends the canonical form of sorted labels whose names and
// values have n bytes in all.
func appendCanonical(b []byte, ls []Label, n int) []byte {
	b = slices.Grow(b, n+len(ls)*maxLabelFrame)
	for i := range ls {
		name, value := ls[i].Name, ls[i].Value
		if len(name)+len(value)+shortLabelFrame-2 >= 0x80 {
			b = appendCanonicalLabel(b, name, value)
			continue
		}
		// What appendCanonicalLabel does, for lengths of one byte.
		f := b[len(b) : len(b)+len(name)+len(value)+shortLabelFrame]
		b = b[:len(b)+len(f)]
		f[0], f[1], f[2], f[3] = v1SeriesLabels, byte(len(f)-2), v1LabelName, byte(len(name))
		copy(f[4:], name)
		f = f[4+len(name):]
		f[0], f[1] = v1LabelValue, byte(len(value))
		copy(f[2:], value)
	}
	return b
}

// What a label's form has besides its name and value: at most, and if all
// lengths take one byte.
const (
	maxLabelFrame   = 3 + 3*binary.MaxVarintLen64
	shortLabelFrame = 3 + 3
)

func appendCanonicalLabel(b []byte, name, value string) []byte {
	b = binary.AppendUvarint(append(b, v1SeriesLabels), uint64(labelLen(name, value)))
	b = binary.AppendUvarint(append(b, v1LabelName), uint64(len(name)))
	b = append(b, name...)
	b = binary.AppendUvarint(append(b, v1LabelValue), uint64(len(value)))
	return append(b, value...)
}

// canonicalLen is the length of a label's canonical form.
func canonicalLen(name, value string) int {
	n := labelLen(name, value)
	return 1 + uvarintLen(n) + n
}

func labelLen(name, value string) int {
	return 1 + uvarintLen(len(name)) + len(name) + 1 + uvarintLen(len(value)) + len(value)
}

func uvarintLen(n int) int { return (bits.Len64(uint64(n)|1) + 6) / 7 }
