package wire

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

type sample struct {
	s    string
	list []string
	subs []*sample
	at   time.Time
}

func (m *sample) Fields(f *Fields) {
	f.String(1, &m.s)
	f.Strings(2, &m.list)
	List(f, 3, &m.subs)
	f.Time(4, &m.at)
}

func TestMalformed(t *testing.T) {
	many := slices.Repeat([]byte{3<<3 | 2, 0}, MaxList+1)
	for name, b := range map[string][]byte{
		"half a tag":     {0x80},
		"field 0":        {0x02, 0},
		"group":          {1<<3 | 3},
		"kind 7":         {1<<3 | 7},
		"short string":   {1<<3 | 2, 5, 'a'},
		"huge length":    {1<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"no length":      {1<<3 | 2},
		"65 bits":        {1 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2},
		"half a fixed64": {9<<3 | 1, 1, 2},
		"half a fixed32": {9<<3 | 5, 1},
		"no UTF-8":       {1<<3 | 2, 1, 0xff},
		"inside":         {3<<3 | 2, 2, 1<<3 | 2, 9},
		"many":           many,
	} {
		if err := Unmarshal(b, &sample{}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Unmarshal(many[2:], &sample{}); err != nil {
		t.Errorf("as many as there may be: %v", err)
	}
}

func TestMending(t *testing.T) {
	var got sample
	if err := Unmarshal(Marshal(&sample{s: "a\xffb", at: time.Unix(0, 0)}), &got); err != nil || got.s != "a\uFFFDb" || !got.at.Equal(time.Unix(0, 0)) {
		t.Errorf("%+v, %v", got, err)
	}
}

// What was read is its own.
func TestCopies(t *testing.T) {
	b := Marshal(&Any{"type", []byte("value")})
	var a Any
	if err := Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if a.TypeURL != "type" || string(a.Value) != "value" || a.Type() != "type" || (*Any)(nil).Type() != "" || (*Any)(nil).Bytes() != nil {
		t.Errorf("%+v", a)
	}
}

func TestNested(t *testing.T) {
	m := &sample{s: "outer", list: []string{"a", ""}, subs: []*sample{{s: strings.Repeat("x", 300), subs: []*sample{{s: "inner"}}}, {}}}
	var got sample
	if err := Unmarshal(Marshal(m), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.subs) != 2 || got.subs[0].s != m.subs[0].s || got.subs[0].subs[0].s != "inner" || !slices.Equal(got.list, m.list) || got.s != "outer" {
		t.Errorf("%+v", got)
	}
}
