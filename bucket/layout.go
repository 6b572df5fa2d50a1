package bucket

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
)

// The layout is that of Thanos, Cortex and Mimir. A home is the folder of the
// blocks of one tenant, or of the pool:
//
//	<home>/<ULID>/chunks/000001        samples, in segments of up to 512 MiB
//	<home>/<ULID>/index                series and postings
//	<home>/<ULID>/tenants.json         pooled blocks: whose series are inside, and their bytes
//	<home>/<ULID>/meta.json            written last, deleted first
//	<home>/<ULID>/deletion-mark.json   the block is to go
//	<home>/<ULID>/no-compact-mark.json the compactor leaves the block alone
//	<home>/<ULID>/uploading-meta.json  what meta.json will be, if a client's upload is finished
//	<home>/<ULID>/validation.json      how the check of such an upload goes
//	<home>/markers/<ULID>-deletion-mark.json, -no-compact-mark.json
//	                                   the same marks where one listing finds all
//	<home>/bucket-index.json.gz        what blocks and marks there are

// OwnHome is the folder of Hearth's own objects. No tenant's name begins with
// two underscores.
const OwnHome Key = "__hearth__"

// PoolHome is the home of the blocks that small tenants share.
const PoolHome = OwnHome + "/pool"

// Names of the objects of a block.
const (
	MetaFile          = "meta.json"
	IndexFile         = "index"
	ChunksDir         = "chunks"
	TombstonesFile    = "tombstones"
	DeletionMarkFile  = "deletion-mark.json"
	NoCompactMarkFile = "no-compact-mark.json"
	UploadingMetaFile = "uploading-meta.json"
	ValidationFile    = "validation.json"

	markersDir = "markers"
	indexName  = "bucket-index.json.gz"
)

// TenantHome is the home of the blocks of a tenant that has a head of its own.
func TenantHome(tenant string) Key { return Key(tenant) }

// Join appends segments to a key.
func (k Key) Join(segments ...string) Key {
	var b strings.Builder
	b.WriteString(string(k))
	for _, s := range segments {
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		b.WriteString(s)
	}
	return Key(b.String())
}

// Folder is the prefix of all keys below k, for Bucket.List.
func (k Key) Folder() Key {
	if k == "" {
		return ""
	}
	return k + "/"
}

// Base is the last segment of a key or of a folder's key.
func (k Key) Base() string {
	s := strings.TrimSuffix(string(k), "/")
	return s[strings.LastIndexByte(s, '/')+1:]
}

// BlockKey is the key of an object of a block, for example
// BlockKey(home, id, ChunksDir, "000001"). With no path it is the block's folder.
func BlockKey(home Key, id ulid.ULID, path ...string) Key {
	return home.Join(id.String()).Join(path...)
}

// ChunkKey is the key of a block's chunk segment; the first is number 1.
func ChunkKey(home Key, id ulid.ULID, segment int) Key {
	return BlockKey(home, id, ChunksDir, fmt.Sprintf("%06d", segment))
}

// IndexKey is the key of a home's list of blocks.
func IndexKey(home Key) Key { return home.Join(indexName) }

// MarkersFolder is the folder with a home's marks of all blocks.
func MarkersFolder(home Key) Key { return home.Join(markersDir).Folder() }

// MarkerKey is where a block's mark (DeletionMarkFile, NoCompactMarkFile) is
// repeated for those who list a home's marks.
func MarkerKey(home Key, id ulid.ULID, mark string) Key {
	return home.Join(markersDir, id.String()+"-"+mark)
}

// ParseMarker splits a key below MarkersFolder into the block and the mark.
func ParseMarker(key Key) (id ulid.ULID, mark string, ok bool) {
	block, mark, found := strings.Cut(key.Base(), "-")
	if !found {
		return ulid.ULID{}, "", false
	}
	id, ok = ParseBlockID(block)
	return id, mark, ok
}

// ParseBlockID is the block that a segment of a key names. What is no ULID, or
// one written in another way than it is printed, is no block.
func ParseBlockID(segment string) (ulid.ULID, bool) {
	id, err := ulid.ParseStrict(segment)
	return id, err == nil && id.String() == segment
}

// Limits of keys that both S3 and file systems have, in bytes.
const (
	maxKeyLength     = 900 // S3 allows 1024, with the configured prefix
	maxSegmentLength = 255
)

// Validate checks the rules for keys, so that a key is safe as a file's path.
func (k Key) Validate() error {
	switch {
	case k == "":
		return fmt.Errorf("invalid key: empty")
	case len(k) > maxKeyLength:
		return fmt.Errorf("invalid key: %d bytes long, the limit is %d", len(k), maxKeyLength)
	case !utf8.ValidString(string(k)):
		return fmt.Errorf("invalid key %q: not UTF-8", k)
	}
	for i := range len(k) {
		if k[i] < 0x20 || k[i] == 0x7f || k[i] == '\\' {
			return fmt.Errorf("invalid key %q: it has the character %q", k, k[i])
		}
	}
	for segment := range strings.SplitSeq(string(k), "/") {
		switch {
		case segment == "", segment == ".", segment == "..":
			return fmt.Errorf("invalid key %q: it has the segment %q", k, segment)
		case len(segment) > maxSegmentLength:
			return fmt.Errorf("invalid key %q: a segment is %d bytes long, the limit is %d", k, len(segment), maxSegmentLength)
		}
	}
	if k == hiddenDir || strings.HasPrefix(string(k), hiddenDir+"/") {
		return fmt.Errorf("invalid key %q: %s is reserved", k, hiddenDir)
	}
	return nil
}

// validatePrefix checks a prefix for List: nothing, or a folder.
func (k Key) validatePrefix() error {
	folder, ok := strings.CutSuffix(string(k), "/")
	switch {
	case k == "":
		return nil
	case !ok:
		return fmt.Errorf("invalid prefix %q: it does not end in a slash", k)
	default:
		return Key(folder).Validate()
	}
}
