package bucket

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLayout(t *testing.T) {
	t.Parallel()
	id := blockID(1)
	s := id.String()
	for got, want := range map[Key]string{
		TenantHome("t"):                       "t",
		PoolHome:                              "__hearth__/pool",
		BlockKey("t", id):                     "t/" + s,
		BlockKey("t", id).Folder():            "t/" + s + "/",
		BlockKey(PoolHome, id, MetaFile):      "__hearth__/pool/" + s + "/meta.json",
		BlockKey("t", id, IndexFile):          "t/" + s + "/index",
		ChunkKey("t", id, 1):                  "t/" + s + "/chunks/000001",
		ChunkKey("t", id, 12):                 "t/" + s + "/chunks/000012",
		BlockKey("t", id, DeletionMarkFile):   "t/" + s + "/deletion-mark.json",
		BlockKey("t", id, NoCompactMarkFile):  "t/" + s + "/no-compact-mark.json",
		MarkerKey("t", id, DeletionMarkFile):  "t/markers/" + s + "-deletion-mark.json",
		MarkerKey("t", id, NoCompactMarkFile): "t/markers/" + s + "-no-compact-mark.json",
		IndexKey("t"):                         "t/bucket-index.json.gz",
		Key("").Folder():                      "",
		Key("").Join("a", "b"):                "a/b",
		Key(Key("a/b/").Base()):               "b",
		Key(Key("a").Base()):                  "a",
		MarkersFolder("t"):                    "t/markers/",
	} {
		require.Equal(t, want, string(got))
	}
	for segment, want := range map[string]bool{
		s: true, s[:25]: false, "": false, s + "0": false, "01hf7yat00000000000000000o": false,
		"01HF7YAT0000000000000000IL": false, "ZZZZZZZZZZZZZZZZZZZZZZZZZZ": false, "meta.json": false,
	} {
		got, ok := ParseBlockID(segment)
		require.Equal(t, want, ok, segment)
		if ok {
			require.Equal(t, segment, got.String())
		}
	}
	for _, mark := range []string{DeletionMarkFile, NoCompactMarkFile} {
		gotID, gotMark, ok := ParseMarker(MarkerKey("t", id, mark))
		require.True(t, ok)
		require.Equal(t, id, gotID)
		require.Equal(t, mark, gotMark)
	}
	_, _, ok := ParseMarker("t/markers/tenant-deletion-mark.json")
	require.False(t, ok)
}
