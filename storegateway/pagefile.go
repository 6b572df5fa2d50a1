package storegateway

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"
)

// pageFile is the cache of pages on local disk: a file of slots of a page
// each, and a file of heads that say what the slots hold, so that the cache is
// still there after a restart:
//
//	<dir>/pages   slot 0 | slot 1 | ...
//	<dir>/heads   magic, format, page size | head of slot 0 | head of slot 1 | ...
//	head          block 16 B, segment 4 B, page 4 B, size 4 B, CRC-32C of these 4 B; big endian
//
// A head is wiped before its slot is overwritten, and written after it. Nothing
// is synced: should a loss of power leave a head with the wrong page, the
// checksums of the chunks in it tell, and the page is fetched again.
//
// Of all slots, one not used since the hand last passed it is replaced (the
// clock algorithm). All methods but read and write are called with pages.mu
// held. A nil pageFile holds nothing.
type pageFile struct {
	pages, heads *os.File
	limit        int // slots

	index map[pageKey]int32
	slots []slot
	free  []int32 // slots that hold nothing
	hand  int
	used  int64     // bytes
	off   time.Time // no writing until then
}

type slot struct {
	key     pageKey
	size    int32
	version uint32 // counts what the slot has held, so that a reader sees that it was replaced
	state   slotState
}

type slotState uint8

const (
	slotFree slotState = iota
	slotBusy           // being written
	slotCold           // holds a page
	slotWarm           // holds a page that was used since the hand passed
)

// slotRef is a page in a slot at some time.
type slotRef struct {
	slot    int32
	version uint32
	size    int32
}

const (
	headSize     = 32
	headsMagic   = "HEARTHPG"
	headsFormat  = 1
	writePause   = time.Minute // after the disk refused a write
	minPageFile  = 16 * pageSize
	pagesName    = "pages"
	headsName    = "heads"
	headsPerRead = 1 << 15
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openPageFile opens the cache in dir, or makes one, of at most limit bytes.
func openPageFile(dir string, limit int64) (*pageFile, error) {
	if limit < minPageFile {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("make chunk cache: %w", err)
	}
	f := &pageFile{limit: int(limit / pageSize), index: map[pageKey]int32{}}
	var err error
	if f.pages, err = os.OpenFile(filepath.Join(dir, pagesName), os.O_RDWR|os.O_CREATE, 0o666); err == nil {
		f.heads, err = os.OpenFile(filepath.Join(dir, headsName), os.O_RDWR|os.O_CREATE, 0o666)
	}
	if err == nil {
		err = f.load()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open chunk cache: %w", err), f.close())
	}
	return f, nil
}

// load takes up what an earlier run left, or begins with nothing.
func (f *pageFile) load() error {
	want := binary.BigEndian.AppendUint32([]byte(headsMagic), headsFormat)
	want = binary.BigEndian.AppendUint32(want, pageSize)
	want = append(want, make([]byte, headSize-len(want))...)
	info, err := f.pages.Stat()
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(f.heads, headsPerRead)
	got := make([]byte, headSize)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != string(want) {
		return f.reset(want)
	}
	for len(f.slots) < f.limit {
		if _, err := io.ReadFull(r, got); err != nil {
			break
		}
		f.adopt(got, info.Size())
	}
	// What is beyond, after the limit was lowered.
	return errors.Join(
		f.pages.Truncate(min(info.Size(), int64(f.limit)*pageSize)),
		f.heads.Truncate(int64(len(f.slots)+1)*headSize),
	)
}

func (f *pageFile) reset(head []byte) error {
	if err := errors.Join(f.pages.Truncate(0), f.heads.Truncate(0)); err != nil {
		return err
	}
	_, err := f.heads.WriteAt(head, 0)
	return err
}

// adopt takes up the next slot.
func (f *pageFile) adopt(head []byte, fileSize int64) {
	i := int32(len(f.slots))
	key, size, ok := decodeHead(head)
	_, twice := f.index[key]
	if !ok || twice || int64(i)*pageSize+int64(size) > fileSize {
		f.slots = append(f.slots, slot{})
		f.free = append(f.free, i)
		return
	}
	f.slots = append(f.slots, slot{key: key, size: size, state: slotCold})
	f.index[key] = i
	f.used += int64(size)
}

func encodeHead(key pageKey, size int) []byte {
	b := make([]byte, 0, headSize)
	b = append(b, key.block[:]...)
	b = binary.BigEndian.AppendUint32(b, key.segment)
	b = binary.BigEndian.AppendUint32(b, key.page)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeHead(b []byte) (key pageKey, size int32, ok bool) {
	copy(key.block[:], b)
	key.segment = binary.BigEndian.Uint32(b[16:])
	key.page = binary.BigEndian.Uint32(b[20:])
	n := binary.BigEndian.Uint32(b[24:])
	ok = n > 0 && n <= pageSize && binary.BigEndian.Uint32(b[28:]) == crc32.Checksum(b[:28], castagnoli)
	return key, int32(n), ok
}

// look says where a page is.
func (f *pageFile) look(key pageKey) (slotRef, bool) {
	if f == nil {
		return slotRef{}, false
	}
	i, ok := f.index[key]
	if !ok {
		return slotRef{}, false
	}
	s := &f.slots[i]
	s.state = slotWarm
	return slotRef{i, s.version, s.size}, true
}

// read reads the page in a slot. Only if the slot holds it afterwards too, the
// data is what it should be.
func (f *pageFile) read(ref slotRef, page []byte) error {
	_, err := f.pages.ReadAt(page, int64(ref.slot)*pageSize)
	return err
}

// holds says that a page is still where it was.
func (f *pageFile) holds(key pageKey, ref slotRef) bool {
	i, ok := f.index[key]
	return ok && i == ref.slot && f.slots[i].version == ref.version
}

// reserve finds a slot to write a page to, unless it is there already. The
// caller writes it and commits it.
func (f *pageFile) reserve(key pageKey, now time.Time) (int32, bool) {
	if f == nil || now.Before(f.off) {
		return 0, false
	}
	if _, ok := f.index[key]; ok {
		return 0, false
	}
	i, ok := f.vacate()
	if !ok {
		return 0, false
	}
	s := &f.slots[i]
	s.version++
	s.state = slotBusy
	return i, true
}

func (f *pageFile) vacate() (int32, bool) {
	if n := len(f.free); n > 0 {
		i := f.free[n-1]
		f.free = f.free[:n-1]
		return i, true
	}
	if len(f.slots) < f.limit {
		f.slots = append(f.slots, slot{})
		return int32(len(f.slots) - 1), true
	}
	for range 2 * len(f.slots) {
		i := f.hand
		f.hand = (f.hand + 1) % len(f.slots)
		s := &f.slots[i]
		switch s.state {
		case slotWarm:
			s.state = slotCold
		case slotCold:
			delete(f.index, s.key)
			f.used -= int64(s.size)
			return int32(i), true
		}
	}
	return 0, false // all are being written
}

func (f *pageFile) write(key pageKey, i int32, page []byte) error {
	at := int64(i+1) * headSize
	if _, err := f.heads.WriteAt(make([]byte, headSize), at); err != nil {
		return err
	}
	if _, err := f.pages.WriteAt(page, int64(i)*pageSize); err != nil {
		return err
	}
	_, err := f.heads.WriteAt(encodeHead(key, len(page)), at)
	return err
}

// commit says how the writing of a slot went.
func (f *pageFile) commit(key pageKey, i int32, size int, err error) {
	s := &f.slots[i]
	_, twice := f.index[key]
	if err != nil || twice {
		s.state = slotFree
		f.free = append(f.free, i)
	}
	switch {
	case err != nil:
		f.off = time.Now().Add(writePause)
	case !twice:
		s.key, s.size, s.state = key, int32(size), slotCold
		f.index[key] = i
		f.used += int64(size)
	}
}

// drop forgets a page. Its head stays until the slot is used again; whoever
// reads it after a restart finds out that it is wrong, as was found out now.
func (f *pageFile) drop(key pageKey) {
	if f == nil {
		return
	}
	i, ok := f.index[key]
	if !ok {
		return
	}
	delete(f.index, key)
	s := &f.slots[i]
	s.state = slotFree
	s.version++
	f.used -= int64(s.size)
	f.free = append(f.free, i)
}

func (f *pageFile) bytes() int64 { return f.used }

func (f *pageFile) close() error {
	if f == nil {
		return nil
	}
	var errs []error
	for _, file := range []*os.File{f.pages, f.heads} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}
