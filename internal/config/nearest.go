package config

import (
	"reflect"
	"slices"
)

// suggestion names the known key that an unknown one was probably meant to be, if one is near.
func suggestion(key []string) string {
	for i := range key {
		if t := typeOf(key[:i+1]); t != nil {
			continue
		}
		near := nearest(key[i], namesIn(typeOf(key[:i])))
		if near == "" {
			break
		}
		return "; did you mean " + joinKey(append(slices.Clone(key[:i]), near)) + "?"
	}
	// The right name in the wrong table.
	last := key[len(key)-1]
	for _, table := range tables(reflect.TypeFor[Config](), nil) {
		if slices.Contains(namesIn(typeOf(table)), last) {
			return "; did you mean " + joinKey(append(slices.Clone(table), last)) + "?"
		}
	}
	return "; berth config default lists all keys"
}

// tables lists the keys of all tables below t, that of the top among them.
func tables(t reflect.Type, prefix []string) [][]string {
	out := [][]string{prefix}
	for i, name := range namesIn(t) {
		if f := t.Field(i).Type; isTable(f) {
			out = append(out, tables(f, append(slices.Clone(prefix), name))...)
		}
	}
	return out
}

// nearest is the name that takes the fewest changes of a letter, if they are few.
func nearest(name string, known []string) string {
	best, least := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's: the least number of letters to add, drop or replace.
func distance(a, b string) int {
	if len(a) > 64 { // no name of ours is near it
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
