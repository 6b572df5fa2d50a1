package app

import (
	"iter"
	"reflect"
	"strings"
)

// fieldsOf yields the keys of a config struct with the fields they fill, in
// the order of the struct. Fields of inlined structs count as its own.
func fieldsOf(t reflect.Type) iter.Seq2[string, reflect.StructField] {
	return func(yield func(string, reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(t) {
			name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if !f.IsExported() || name == "-" || opts == "inline" {
				continue
			}
			if name == "" {
				if len(f.Index) > 1 { // promoted from a struct that has its own key
					continue
				}
				name = strings.ToLower(f.Name)
			}
			if !yield(name, f) {
				return
			}
		}
	}
}

// keysOf lists all keys of a config struct, with dots between levels, those in
// the middle before those below them. The keys of a map are its placeholder.
func keysOf(t reflect.Type, path string) []string {
	var keys []string
	switch {
	case isLeaf(t):
	case t.Kind() == reflect.Struct:
		for name, f := range fieldsOf(t) {
			p := join(path, name)
			keys = append(append(keys, p), keysOf(f.Type, p)...)
		}
	case t.Kind() == reflect.Map:
		p := join(path, placeholder(t))
		keys = append(append(keys, p), keysOf(t.Elem(), p)...)
	}
	return keys
}

// placeholder stands for the keys of a map where valid keys are listed.
func placeholder(t reflect.Type) string {
	if t.Key() == reflect.TypeFor[string]() {
		return "<name>"
	}
	return "<" + strings.ToLower(strings.TrimSuffix(t.Key().String(), ".ID")) + ">"
}

// nearest is the valid key that was most likely meant: its last part counts
// twice, because a right key in the wrong section is more common than a wrong
// key that resembles another one as a whole.
func nearest(key string, valid []string) string {
	parent, last := cutLast(key)
	best, bestScore := "", 0
	for _, v := range valid {
		p, l := cutLast(v)
		score := 2*distance(last, l) + distance(parent, p)
		if best == "" || score < bestScore {
			best, bestScore = v, score
		}
	}
	return best
}

func cutLast(key string) (parent, last string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// distance is the number of bytes to insert, delete or replace to get from a
// to b (Levenshtein), kept one row at a time.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
