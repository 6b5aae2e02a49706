package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	kgzip "github.com/klauspost/compress/gzip"
)

// pairs keeps the tests from clearing buffers all the time.
var pairs = sync.Pool{New: func() any { return new([2]Buffer) }}

// decode decompresses all of r, by turns into two buffers.
func decode(r io.Reader) ([]byte, error) {
	var out []byte
	d, bufs, end := New(r), pairs.Get().(*[2]Buffer), 0
	defer pairs.Put(bufs)
	for i := 0; ; i++ {
		start := Carry(&bufs[i&1], &bufs[i&1^1], end)
		var err error
		if end, err = d.Decode(&bufs[i&1], start); err != nil {
			if err == io.EOF {
				err = nil
			}
			return out, err
		}
		out = append(out, bufs[i&1][start:end]...)
	}
}

func pack(t testing.TB, level int, parts ...[]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	for _, p := range parts {
		w, err := gzip.NewWriterLevel(&buf, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(p)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

// member wraps a deflate stream whose content is known.
func member(deflated, content []byte) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}, deflated...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(content))
	return binary.LittleEndian.AppendUint32(b, uint32(len(content)))
}

// samples are contents that lead to different codes, distances and lengths.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 700_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	text := make([]byte, 0, 1<<20)
	for len(text) < 1<<20-20 {
		text = append(text, "the quick brown fox jumps over a lazy dog and another "[r.IntN(40):][:1+r.IntN(12)]...)
	}
	skewed := make([]byte, 600_000) // codes of all lengths up to 15
	for i := range skewed {
		skewed[i] = byte(min(255, int(r.ExpFloat64()*12)))
	}
	far := append(bytes.Clone(noise[:Window]), noise[:Window]...) // distances of exactly the window
	s := map[string][]byte{
		"empty": {}, "one": {7}, "noise": noise, "text": text, "zeros": make([]byte, 3<<20), "skewed": skewed,
		"far": bytes.Repeat(far, 9), "window": bytes.Repeat(noise[:Window], 20),
	}
	var periods []byte // matches that overlap what they make, at every small distance
	for d := 1; d <= 40; d++ {
		for _, n := range []int{3, 7, 8, 9, 15, 16, 17, 31, 33, 257, 258, 300} {
			periods = append(periods, noise[d*n:][:40]...)
			periods = append(periods, bytes.Repeat(noise[d:][:d], n/d+2)...)
		}
	}
	s["periods"] = periods
	return s
}

func TestDecode(t *testing.T) {
	for name, want := range samples() {
		for _, level := range []int{0, 1, 6, 9, gzip.HuffmanOnly} {
			z := pack(t, level, want)
			got, err := decode(bytes.NewReader(z))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, level %d: %d bytes of %d, %v", name, level, len(got), len(want), err)
			}
		}
	}
}

func TestSources(t *testing.T) {
	want := samples()["text"][:300_000]
	z := pack(t, 6, want[:100_000], nil, want[100_000:])
	for name, r := range map[string]io.Reader{
		"a byte at a time": iotest.OneByteReader(bytes.NewReader(z)), "halves": iotest.HalfReader(bytes.NewReader(z)),
		"data with the end": iotest.DataErrReader(bytes.NewReader(z)),
	} {
		if got, err := decode(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	broken := errors.New("broken")
	if _, err := decode(io.MultiReader(bytes.NewReader(z[:len(z)/2]), iotest.ErrReader(broken))); err != broken {
		t.Errorf("a source's error became %v", err)
	}
	if _, err := New(bytes.NewReader(z)).Decode(new(Buffer), BufferSize-Room+1); err != io.ErrShortBuffer {
		t.Errorf("a full buffer: %v", err)
	}
}

func TestHeader(t *testing.T) {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Name, w.Comment, w.Extra = "layer.tar", "a comment", []byte("extra")
	w.Write([]byte("content"))
	w.Close()
	if got, err := decode(&buf); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	z := pack(t, 6, []byte("content"))
	z[3] |= flagCRC
	sum := crc32.ChecksumIEEE(z[:10])
	good := append(append(bytes.Clone(z[:10]), byte(sum), byte(sum>>8)), z[10:]...)
	if got, err := decode(bytes.NewReader(good)); err != nil || string(got) != "content" {
		t.Errorf("with a check sum: %q, %v", got, err)
	}
	good[10]++
	if _, err := decode(bytes.NewReader(good)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("with a wrong check sum: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	want := samples()["text"][:20_000]
	z := pack(t, 6, want)
	for n := range z {
		if _, err := decode(bytes.NewReader(z[:n])); err != io.ErrUnexpectedEOF {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(z), err)
		}
		bad := bytes.Clone(z)
		bad[n] ^= 0x10
		got, err := decode(bytes.NewReader(bad))
		if err == nil && !bytes.Equal(got, want) { // a header's time, or a match of the same bytes, changes nothing
			t.Fatalf("byte %d was changed: other bytes and no error", n)
		}
	}
	if _, err := decode(bytes.NewReader(append(bytes.Clone(z), "garbage after it"...))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("garbage after the end: %v", err)
	}
	endless := append([]byte{0x1f, 0x8b, 8, flagName, 0, 0, 0, 0, 0, 0}, strings.Repeat("n", maxText+2)...)
	if _, err := decode(bytes.NewReader(endless)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an endless name: %v", err)
	}
}

// Zeros after the last member are padding, as they are for gzip; anything else is damage, be it behind zeros.
func TestPadding(t *testing.T) {
	want := samples()["text"][:20_000]
	z := pack(t, 6, want[:10_000], want[10_000:])
	for _, n := range []int{1, 2, 9, 10, 11, 511, 10240, 3 * inSize} {
		padded := append(bytes.Clone(z), make([]byte, n)...)
		for name, r := range map[string]io.Reader{"at once": bytes.NewReader(padded), "by bytes": iotest.OneByteReader(bytes.NewReader(padded))} {
			if got, err := decode(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d zeros, %s: %d bytes, %v", n, name, len(got), err)
			}
		}
		for name, more := range map[string][]byte{"garbage": []byte("x"), "a member": z} {
			if _, err := decode(bytes.NewReader(append(padded, more...))); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s behind %d zeros: %v", name, n, err)
			}
		}
	}
	for _, n := range []int{0, 1, 10, 3 * inSize} {
		padded := append(bytes.Clone(z), make([]byte, n)...)
		for _, broken := range []error{errors.New("broken"), io.ErrUnexpectedEOF} {
			if _, err := decode(io.MultiReader(bytes.NewReader(padded), iotest.ErrReader(broken))); err != broken {
				t.Errorf("a source's error %v behind %d zeros became %v", broken, n, err)
			}
		}
	}
	for _, n := range []int{1, 9, 10, 100} {
		if _, err := decode(bytes.NewReader(make([]byte, n))); err == nil {
			t.Errorf("%d zeros alone are no gzip", n)
		}
	}
}

// An error stays, whatever bytes follow what was wrong.
func TestErrorStays(t *testing.T) {
	z := pack(t, 6, samples()["text"][:20_000])
	buf := new(Buffer)
	for n := range z {
		bad := append(bytes.Clone(z), z...)
		bad[n] ^= 0x55
		d, err := New(bytes.NewReader(bad)), error(nil)
		for err == nil {
			_, err = d.Decode(buf, 0)
		}
		for range 3 {
			if _, again := d.Decode(buf, 0); again != err {
				t.Fatalf("byte %d was changed: %v, and then %v", n, err, again)
			}
		}
	}
}

// A block with the fixed codes may have ten bits: their tables are made anew only where others were in between.
func TestFixedOnce(t *testing.T) {
	var raw bytes.Buffer
	w, err := flate.NewWriter(&raw, 6)
	if err != nil {
		t.Fatal(err)
	}
	text := samples()["text"][:5000]
	want := slices.Concat([]byte("a b"), text, []byte("a c a d"))
	for _, part := range [][]byte{want[:1], want[1:3], text, want[len(want)-7 : len(want)-3], want[len(want)-3:]} {
		w.Write(part)
		w.Flush()
	}
	w.Close()
	d, buf, o := New(bytes.NewReader(member(raw.Bytes(), want))), new(Buffer), 0
	made, kinds := 0, ""
	for err == nil { // as Decode does, but for the check sum
		begin := o
		o, err = d.next(d, buf, o)
		d.total += uint64(o - begin)
		if mark := &d.dist[1<<distBits-1]; d.isFixed && *mark != invalid { // symbol 31, which never occurs
			made++
			*mark = invalid
		}
		if kind := map[bool]string{true: "f", false: "d"}[d.isFixed]; !strings.HasSuffix(kinds, kind) {
			kinds += kind
		}
	}
	if !bytes.Equal(buf[:o], want) || kinds != "dfdf" || made != 2 {
		t.Errorf("%d bytes of %d, %v; kinds of codes %s, fixed ones made %d times", o, len(want), err, kinds, made)
	}
}

// checkDeflate compares a deflate stream's content with what compress/flate makes of it.
func checkDeflate(t *testing.T, raw []byte) {
	t.Helper()
	src := bytes.NewReader(raw)
	want, err := io.ReadAll(io.LimitReader(flate.NewReader(src), 4<<20))
	if len(want) == 4<<20 {
		return
	}
	got, own := decode(bytes.NewReader(member(raw[:len(raw)-src.Len()], want)))
	switch {
	case err == nil && (own != nil || !bytes.Equal(got, want)):
		t.Fatalf("%d bytes, %v instead of %d bytes", len(got), own, len(want))
	case err != nil && own == nil:
		t.Fatalf("no error instead of %v", err)
	case own != nil && own != io.ErrUnexpectedEOF && !errors.Is(own, ErrCorrupt):
		t.Fatal(own)
	}
}

// TestDifferential changes deflate streams and compares with compress/flate.
func TestDifferential(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	all := samples()
	for _, name := range []string{"text", "skewed", "periods", "zeros", "noise"} {
		for _, level := range []int{1, 6, flate.HuffmanOnly} {
			var buf bytes.Buffer
			w, err := flate.NewWriter(&buf, level)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(all[name][:min(len(all[name]), 3000)])
			w.Close()
			for range 300 {
				raw := bytes.Clone(buf.Bytes())
				for range 1 + r.IntN(3) { // most of it in the head, where the codes are
					raw[r.IntN(min(len(raw), 1+r.IntN(100)))] ^= 1 << r.IntN(8)
				}
				checkDeflate(t, raw)
			}
		}
	}
}

func FuzzDeflate(f *testing.F) {
	for _, want := range samples() {
		z := pack(f, 6, want[:min(len(want), 500)])
		f.Add(z[10 : len(z)-8])
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkDeflate(t, raw) })
}

// unpadded is what compress/gzip makes of z, or of z without zeros at its end, which it does not know for padding.
func unpadded(z []byte) ([]byte, error) {
	library := func(z []byte) ([]byte, error) {
		r, err := gzip.NewReader(bytes.NewReader(z))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(r, 4<<20))
	}
	content, err := library(z)
	bare := len(bytes.TrimRight(z, "\x00"))
	for n := bare; err != nil && n < min(len(z), bare+16); n++ { // a trailer, too, may end with zeros
		if c, err := library(z[:n]); err == nil {
			return c, nil
		}
	}
	return content, err
}

func FuzzGzip(f *testing.F) {
	f.Add(pack(f, 6, []byte("one"), []byte("two")))
	f.Add(append(pack(f, 6, []byte("one")), 0, 0, 0))
	f.Add(append([]byte{0x1f, 0x8b, 8, 31, 0, 0, 0, 0, 0, 0}, "\x02\x00exname\x00comment\x00crc"...))
	f.Fuzz(func(t *testing.T, z []byte) {
		want, err := unpadded(z)
		if len(want) == 4<<20 {
			return
		}
		got, own := decode(bytes.NewReader(z))
		if err == nil && (own != nil || !bytes.Equal(got, want)) || err != nil && own == nil {
			t.Fatalf("%d bytes, %v instead of %d bytes, %v", len(got), own, len(want), err)
		}
	})
}

// BenchmarkDecode decompresses words, as the bench's image has them, and text; the library's figures are for comparison.
func BenchmarkDecode(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	noise, words := samples()["noise"], make([]byte, 0, 8<<20)
	for len(words) < 8<<20-20 {
		w := r.IntN(4096)
		for _, c := range noise[w*16:][:3+noise[w]%12] {
			words = append(words, 'a'+c%26)
		}
	}
	z := pack(b, 6, words)
	b.Run("own", func(b *testing.B) {
		b.SetBytes(int64(len(words)))
		buf := new(Buffer)
		for b.Loop() {
			d, end, err := New(bytes.NewReader(z)), 0, error(nil)
			for err == nil {
				end, err = d.Decode(buf, Carry(buf, buf, end))
			}
			if err != io.EOF {
				b.Fatal(err)
			}
		}
	})
	b.Run("klauspost", func(b *testing.B) {
		b.SetBytes(int64(len(words)))
		buf := make([]byte, 256<<10)
		for b.Loop() {
			r, err := kgzip.NewReader(bytes.NewReader(z))
			for err == nil {
				_, err = r.Read(buf)
			}
			if err != io.EOF {
				b.Fatal(err)
			}
		}
	})
}
