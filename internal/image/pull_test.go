package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func isBlob(r *http.Request) bool     { return strings.Contains(r.URL.Path, "/blobs/") }
func isManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// mustFail pulls, checks the error's kind and words, and that nothing is left.
func mustFail(t *testing.T, s *Store, ref string, kind error, words ...string) {
	t.Helper()
	_, err := s.Pull(context.Background(), ref, PullOptions{})
	if err == nil || !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, w := range append(words, "pull "+strings.TrimSuffix(ref, ":latest")) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than a sentence", err)
	}
	t.Log(err)
	checkEmpty(t, s)
}

func TestRegistrySaysNo(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	ref := f.push(t, "app:1", simple(t))
	mustFail(t, s, f.host()+"/none:7", ErrNotFound, f.host(), "none:7", "404", "check the name")
	for code, kind := range map[int]error{401: ErrUnauthorized, 403: ErrUnauthorized, 429: ErrUnavailable, 500: ErrUnavailable, 503: ErrUnavailable} {
		for what, match := range map[string]func(*http.Request) bool{"manifest": isManifest, "blob": isBlob} {
			t.Run(fmt.Sprint(what, " ", code), func(t *testing.T) {
				f.hook = func(w http.ResponseWriter, r *http.Request) bool {
					if match(r) {
						w.WriteHeader(code)
						return true
					}
					return false
				}
				mustFail(t, s, ref, kind, f.host(), fmt.Sprint(code))
			})
		}
	}
}

func TestRegistryFailsForAWhile(t *testing.T) {
	f := newFake(t)
	ref := f.push(t, "app:1", simple(t))
	for what, fail := range map[string]func(w http.ResponseWriter, r *http.Request){
		"429":    func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Retry-After", "1"); w.WriteHeader(429) },
		"500":    func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"broken": func(w http.ResponseWriter, r *http.Request) { hangUp(w) },
		"half": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "400")
			w.Write(make([]byte, 10))
			w.(http.Flusher).Flush()
			hangUp(w)
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := openStore(t, func(c *Config) { c.Retry.Max = 5 * time.Second }) // more than the Retry-After
			var mu sync.Mutex
			seen := map[string]int{}
			f.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if what == "half" && !isManifest(r) {
					return false
				}
				mu.Lock()
				seen[r.URL.Path]++
				n := seen[r.URL.Path]
				mu.Unlock()
				if n <= 2 {
					fail(w, r)
				}
				return n <= 2
			}
			if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func hangUp(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		c.Close()
	}
}

// cutter answers blob requests with at most n bytes and hangs up, and knows ranges.
func cutter(t *testing.T, blobs map[string][]byte, n int, ranges bool, requests *atomic.Int32) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		b, ok := blobs[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
		if !ok || !isBlob(r) {
			return false
		}
		requests.Add(1)
		from := 0
		if ranges {
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(b)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
			w.WriteHeader(http.StatusPartialContent)
		}
		end := min(from+n, len(b))
		w.Write(b[from:end])
		w.(http.Flusher).Flush()
		if end < len(b) {
			hangUp(w)
		}
		return true
	}
}

func blobsOf(t *testing.T, img v1.Image) map[string][]byte {
	t.Helper()
	blobs := map[string][]byte{}
	ls, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range ls {
		d, _ := l.Digest()
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		b.ReadFrom(r)
		blobs[d.String()] = b.Bytes()
	}
	return blobs
}

func randomImage(t testing.TB, size int64, n int) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for range n {
		l, err := random.Layer(size, types.DockerLayer)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	return build(t, machine(), layers...)
}

func TestResume(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	img := randomImage(t, 300_000, 1)
	ref := f.push(t, "app:1", img)
	var requests atomic.Int32
	f.hook = cutter(t, blobsOf(t, img), 50_000, true, &requests)
	if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := requests.Load(); n < 6 || n > 8 {
		t.Errorf("%d requests: it did not go on where it broke off", n)
	}
}

func TestTruncatedForever(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	img := randomImage(t, 300_000, 2)
	ref := f.push(t, "app:1", img)
	var requests atomic.Int32
	f.hook = cutter(t, blobsOf(t, img), 50_000, false, &requests)
	mustFail(t, s, ref, ErrUnavailable, "broke again and again")
}

func TestStalled(t *testing.T) {
	f := newFake(t)
	s := openStore(t, func(c *Config) { c.Retry.Stall = 50 * time.Millisecond })
	ref := f.push(t, "app:1", randomImage(t, 1000, 1))
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}
		return false
	}
	mustFail(t, s, ref, ErrUnavailable, "silent")
}

// Two pulls share what they have in common; one that is cancelled does not disturb the other.
func TestSharedLayers(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	common, _ := random.Layer(100_000, types.DockerLayer)
	refA := f.push(t, "a:1", build(t, machine(), common, layer(t, file{name: "a"})))
	refB := f.push(t, "b:1", build(t, machine(), common, layer(t, file{name: "b"})))
	d, _ := common.Digest()
	var fetched atomic.Int32
	started, goOn := make(chan struct{}), make(chan struct{})
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, d.String()) {
			if fetched.Add(1) == 1 {
				close(started)
			}
			<-goOn
		}
		return false
	}
	ctxA, cancelA := context.WithCancel(context.Background())
	errA, errB := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.Pull(ctxA, refA, PullOptions{}); errA <- err }()
	<-started
	var once sync.Once
	joined := make(chan struct{})
	go func() {
		_, err := s.Pull(context.Background(), refB, PullOptions{Progress: func(p Progress) {
			for _, l := range p.Layers {
				if l.Digest.String() == d.String() && l.Phase == PhaseDownloading {
					once.Do(func() { close(joined) })
				}
			}
		}})
		errB <- err
	}()
	<-joined
	cancelA()
	if err := <-errA; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled pull: %v", err)
	}
	close(goOn)
	if err := <-errB; err != nil {
		t.Errorf("the other pull: %v", err)
	}
	if n := fetched.Load(); n != 1 {
		t.Errorf("the common layer was fetched %d times", n)
	}
	s.Remove(context.Background(), refB)
	checkEmpty(t, s)
}

func TestCancel(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	ref := f.push(t, "app:1", randomImage(t, 200_000, 3))
	for _, match := range []func(*http.Request) bool{isManifest, isBlob} {
		ctx, cancel := context.WithCancel(context.Background())
		f.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if match(r) {
				cancel()
				<-r.Context().Done()
				return true
			}
			return false
		}
		if _, err := s.Pull(ctx, ref, PullOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		if left := tree(t, s.ingest); len(left) != 0 {
			t.Errorf("left in ingest: %v", left)
		}
		checkEmpty(t, s)
	}
}

func TestKeepForRetry(t *testing.T) {
	f := newFake(t)
	s := openStore(t, func(c *Config) { c.KeepForRetry = time.Hour })
	img := randomImage(t, 1000, 3)
	ref := f.push(t, "app:1", img)
	layers, _ := img.Layers()
	bad, _ := layers[2].Digest()
	var mu sync.Mutex
	served := map[string]int{}
	down := true
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if !isBlob(r) {
			return false
		}
		if down && strings.HasSuffix(r.URL.Path, bad.String()) {
			// Fail only when the others are here.
			if len(served) < 3 {
				time.Sleep(20 * time.Millisecond)
			}
			w.WriteHeader(500)
			return true
		}
		served[r.URL.Path]++
		return false
	}
	if _, err := s.Pull(context.Background(), ref, PullOptions{}); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	mu.Lock()
	down = false
	mu.Unlock()
	if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	for p, n := range served {
		if n != 1 && !strings.Contains(p, strings.TrimPrefix(mustConfig(t, img), "sha256:")) {
			t.Errorf("%s was fetched %d times", p, n)
		}
	}
}

func mustConfig(t *testing.T, img v1.Image) string {
	h, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func TestAuth(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	ref := f.push(t, "private:1", simple(t))
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == "me" && p == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(401)
		return true
	}
	mustFail(t, s, ref, ErrUnauthorized, "log in")
	for name, a := range map[string]struct {
		auth Auth
		ok   bool
	}{
		"password":      {Auth{Username: "me", Password: "secret"}, true},
		"wrong":         {Auth{Username: "me", Password: "guess"}, false},
		"base64":        {Auth{Auth: "bWU6c2VjcmV0"}, true},
		"this server":   {Auth{Username: "me", Password: "secret", ServerAddress: f.URL + "/v2/"}, true},
		"other server":  {Auth{Username: "me", Password: "secret", ServerAddress: "https://other.example"}, false},
		"broken base64": {Auth{Auth: "?"}, false},
	} {
		_, err := s.Pull(context.Background(), ref, PullOptions{Auth: &a.auth})
		if (err == nil) != a.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestPlainHTTPOnlyWhereAllowed(t *testing.T) {
	f := newFake(t)
	ref := f.push(t, "app:1", simple(t))
	port := ref[strings.Index(ref, ":")+1 : strings.Index(ref, "/")]
	// The host's own address is no loopback address by name; the registry answers there all the same.
	refused := "registry.test:" + port + "/app:1"
	dial := &http.Transport{DialContext: dialTo(f.Listener.Addr().String())}
	s := openStore(t, func(c *Config) { c.Transport = dial })
	mustFail(t, s, refused, ErrUnavailable, "plain-HTTP")
	if _, err := s.Pull(context.Background(), refused, PullOptions{PlainHTTP: []string{"registry.test:" + port}}); err != nil {
		t.Error(err)
	}
	mustFailName(t, s, "10.1.2.3:"+port+"/app:2")
}

// mustFailName: a private address is not plain-HTTP by itself.
func mustFailName(t *testing.T, s *Store, ref string) {
	t.Helper()
	_, err := s.Pull(context.Background(), ref, PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "plain HTTP to") {
		t.Errorf("%s: %v", ref, err)
	}
}

func TestBadNames(t *testing.T) {
	s := openStore(t, nil)
	for _, ref := range []string{"", "UPPER", "a b", "x@sha256:12"} {
		if _, err := s.Pull(context.Background(), ref, PullOptions{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	for _, q := range []string{"none", "none:1", strings.Repeat("a", 64), "sha256:abc", "abcdef", ""} {
		if _, err := s.Get(q); err == nil {
			t.Errorf("%q was found", q)
		}
	}
}

func dialTo(addr string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}

// What is here is not fetched again: a second pull asks for the manifest only.
func TestPullAgain(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	ref := f.push(t, "app:1", simple(t))
	var blobs, manifests atomic.Int32
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case isBlob(r):
			blobs.Add(1)
		case isManifest(r):
			manifests.Add(1)
		}
		return false
	}
	for range 3 {
		if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if blobs.Load() != 4 || manifests.Load() != 3 {
		t.Errorf("%d blobs and %d manifests were fetched, want 4 and 3", blobs.Load(), manifests.Load())
	}
}
