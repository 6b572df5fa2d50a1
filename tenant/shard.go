package tenant

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hearth-metrics/hearth/bucket"
)

// The registry is a fixed number of objects. A tenant is in one of them
// together with its tokens, so that every change is one conditional write and
// there is no half of one. Plans and operators' tokens are in the last.
const (
	tenantShards = 64
	sharedShard  = tenantShards
	shards       = tenantShards + 1

	shardFormat = 1
)

const registryHome = bucket.OwnHome + "/tenants"

func shardKey(n int) bucket.Key { return registryHome.Join(shardName(n)) }

func shardName(n int) string {
	if n == sharedShard {
		return "shared.json.gz"
	}
	return fmt.Sprintf("%02x.json.gz", n)
}

// shardOf is the shard of a tenant, or of operators.
func shardOf(id ID) int {
	if id == "" {
		return sharedShard
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return int(h.Sum32() % tenantShards)
}

// shard is what one object holds. It is not changed once it is published.
type shard struct {
	version int64 // grows by one with every write
	etag    string
	tenants map[ID]*tenantEntry
	tokens  map[string]*tokenEntry
	plans   map[string]*Plan
	audit   []AuditEntry // the newest; older ones have objects of their own
}

// tenantEntry is a tenant with its limits, as they are while plans do not
// change.
type tenantEntry struct {
	Tenant
	derived atomic.Pointer[derivedLimits]
}

func newShard() *shard {
	return &shard{tenants: map[ID]*tenantEntry{}, tokens: map[string]*tokenEntry{}, plans: map[string]*Plan{}}
}

// clone is a copy for a change.
func (s *shard) clone() *shard {
	c := *s
	c.tenants, c.tokens, c.plans = maps.Clone(s.tenants), maps.Clone(s.tokens), maps.Clone(s.plans)
	c.audit = slices.Clone(s.audit)
	return &c
}

// The object: JSON in gzip.
type shardFile struct {
	Format  int           `json:"format"`
	Version int64         `json:"version"`
	Tenants []*Tenant     `json:"tenants,omitempty"`
	Tokens  []storedToken `json:"tokens,omitempty"`
	Plans   []*Plan       `json:"plans,omitempty"`
	Audit   []AuditEntry  `json:"audit,omitempty"`
}

type storedToken struct {
	Token
	Hash []byte `json:"hash"` // SHA-256 of the secret
}

func (s *shard) encode() ([]byte, error) {
	f := shardFile{Format: shardFormat, Version: s.version, Audit: s.audit}
	for _, t := range s.tenants {
		f.Tenants = append(f.Tenants, &t.Tenant)
	}
	for _, t := range s.tokens {
		f.Tokens = append(f.Tokens, storedToken{t.Token, t.hash[:]})
	}
	for _, p := range s.plans {
		f.Plans = append(f.Plans, p)
	}
	slices.SortFunc(f.Tenants, func(a, b *Tenant) int { return strings.Compare(string(a.ID), string(b.ID)) })
	slices.SortFunc(f.Tokens, func(a, b storedToken) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(f.Plans, func(a, b *Plan) int { return strings.Compare(a.Name, b.Name) })
	return encodeGzip(f)
}

func decodeShard(b []byte) (*shard, error) {
	var f shardFile
	if err := decodeGzip(b, &f); err != nil {
		return nil, err
	}
	if f.Format != shardFormat {
		return nil, fmt.Errorf("its format is %d, want %d", f.Format, shardFormat)
	}
	s := newShard()
	s.version, s.audit = f.Version, f.Audit
	for _, t := range f.Tenants {
		s.tenants[t.ID] = &tenantEntry{Tenant: *t}
	}
	for _, t := range f.Tokens {
		e := &tokenEntry{Token: t.Token}
		if copy(e.hash[:], t.Hash) != len(e.hash) {
			return nil, fmt.Errorf("token %s: its hash is %d bytes long", t.ID, len(t.Hash))
		}
		var err error
		// A policy that cannot be read must not become none.
		if e.policy, err = parsePolicy(t.LabelPolicy); err != nil {
			return nil, fmt.Errorf("token %s: %w", t.ID, err)
		}
		s.tokens[t.ID] = e
	}
	for _, p := range f.Plans {
		s.plans[p.Name] = p
	}
	return s, nil
}

func encodeGzip(v any) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed) // hashes do not get smaller
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(z).Encode(v); err != nil {
		return nil, err
	}
	err = z.Close()
	return out.Bytes(), err
}

func decodeGzip(b []byte, v any) error {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return json.NewDecoder(z).Decode(v)
}
