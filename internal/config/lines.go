package config

import (
	"bytes"
	"sort"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// lines finds the line of every key in a document that the decoder has accepted.
func lines(data []byte) map[string]int {
	found := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		key, line := keyOf(&p, e)
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key
			found[joinKey(key)] = line
		case unstable.KeyValue:
			mark(&p, e, table, found)
		}
	}
	return found
}

// mark notes where a key is, and what is in it if it is an inline table.
func mark(p *unstable.Parser, e *unstable.Node, table []string, found map[string]int) {
	key, line := keyOf(p, e)
	full := append(append([]string(nil), table...), key...)
	found[joinKey(full)] = line
	if v := e.Value(); v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			mark(p, it.Node(), full, found)
		}
	}
}

func keyOf(p *unstable.Parser, e *unstable.Node) (parts []string, line int) {
	for it := e.Key(); it.Next(); {
		n := it.Node()
		parts = append(parts, string(n.Data))
		line = p.Shape(n.Raw).Start.Line
	}
	return parts, line
}

// culprit finds the key whose value the decoder refused without saying where: the first of which it is
// true that a document that ends with it is refused.
func culprit(data []byte) (key []string, line int) {
	type place struct {
		key  []string
		line int
	}
	var all []place
	var p unstable.Parser
	p.Reset(data)
	var table []string
	for p.NextExpression() {
		key, line := keyOf(&p, p.Expression())
		if p.Expression().Kind == unstable.KeyValue {
			key = append(append([]string(nil), table...), key...)
		} else {
			table = key
		}
		all = append(all, place{key, line})
	}
	rows := bytes.SplitAfter(data, []byte("\n"))
	i := sort.Search(len(all), func(i int) bool {
		end := len(rows)
		if i+1 < len(all) {
			end = all[i+1].line - 1
		}
		c := Default()
		return toml.Unmarshal(bytes.Join(rows[:end], nil), &c) != nil
	})
	if i == len(all) {
		return nil, 0
	}
	return all[i].key, all[i].line
}
