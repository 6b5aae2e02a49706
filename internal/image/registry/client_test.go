package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/reference"
)

func client(t *testing.T, srv *httptest.Server, change func(*Options)) *Client {
	t.Helper()
	ref, err := reference.Parse(strings.TrimPrefix(srv.URL, "http://") + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Keychain: authn.NewMultiKeychain(), Pool: NewPool(http.DefaultTransport.(*http.Transport).Clone()),
		Retry: Retry{Attempts: 3, Base: time.Millisecond, Max: 10 * time.Millisecond, Stall: 5 * time.Second},
	}
	if change != nil {
		change(&o)
	}
	c, err := New(ref, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func describe(b []byte) ispec.Descriptor {
	return ispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

type keychain struct{ user, password string }

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: k.user, Password: k.password}, nil
}

func TestBearer(t *testing.T) {
	blob := []byte("blob")
	var srv *httptest.Server
	srv = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if u, p, _ := r.BasicAuth(); u != "me" || p != "secret" {
				w.WriteHeader(401)
				return
			}
			if !strings.Contains(r.URL.RawQuery, "team%2Fapp%3Apull") {
				t.Errorf("scope: %s", r.URL.RawQuery)
			}
			fmt.Fprint(w, `{"token":"t0k3n"}`)
			return
		}
		if r.Header.Get("Authorization") != "Bearer t0k3n" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+srv.URL+`/token",service="s"`)
			w.WriteHeader(401)
			return
		}
		w.Write(blob)
	})
	c := client(t, srv, func(o *Options) { o.Keychain = keychain{"me", "secret"} })
	if b, err := c.Bytes(context.Background(), describe(blob)); err != nil || !bytes.Equal(b, blob) {
		t.Errorf("%q, %v", b, err)
	}
	c = client(t, srv, func(o *Options) { o.Keychain = keychain{"me", "wrong"} })
	if _, err := c.Bytes(context.Background(), describe(blob)); !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "wrong") {
		t.Error(err)
	}
}

// Credentials stay with the registry when it redirects blobs to a storage host.
func TestRedirectGetsNoCredentials(t *testing.T) {
	blob := []byte("blob")
	storage := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			t.Errorf("the storage got %q", a)
		}
		w.Write(blob)
	})
	other := strings.Replace(storage.URL, "127.0.0.1", "localhost", 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch u, _, _ := r.BasicAuth(); {
		case u != "me":
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(401)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, other+"/x", http.StatusTemporaryRedirect)
		}
	})
	c := client(t, srv, func(o *Options) { o.Keychain = keychain{"me", "secret"} })
	if b, err := c.Bytes(context.Background(), describe(blob)); err != nil || !bytes.Equal(b, blob) {
		t.Errorf("%q, %v", b, err)
	}
}

func TestRedirects(t *testing.T) {
	for to, from := range map[string]string{"http://169.254.169.254/latest": "https://registry.example", "https://127.0.0.1/": "https://registry.example", "https://localhost/": "https://registry.example", "https://10.0.0.1/": "https://registry.example"} {
		a, _ := http.NewRequest("GET", from, nil)
		b, _ := http.NewRequest("GET", to, nil)
		if err := checkRedirect(b, []*http.Request{a}); err == nil {
			t.Errorf("%s → %s was followed", from, to)
		}
	}
	a, _ := http.NewRequest("GET", "https://registry.example", nil)
	b, _ := http.NewRequest("GET", "https://storage.example", nil)
	if err := checkRedirect(b, []*http.Request{a}); err != nil {
		t.Error(err)
	}
	if err := checkRedirect(b, make([]*http.Request, 10)); err == nil {
		t.Error("redirected for ever")
	}
}

func TestBounds(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Write(make([]byte, MaxManifest+1))
		}
	})
	c := client(t, srv, nil)
	if _, err := c.Manifest(context.Background(), "1", nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a huge manifest: %v", err)
	}
	d := describe([]byte("x"))
	d.Size = MaxManifest + 1
	if _, err := c.Bytes(context.Background(), d); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a huge configuration: %v", err)
	}
}

func TestWriterErrorIsNotRetried(t *testing.T) {
	requests := 0
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			requests++
		}
		w.Write([]byte("blob"))
	})
	full := errors.New("full")
	err := client(t, srv, nil).Blob(context.Background(), describe([]byte("blob")), failing{full})
	if !errors.Is(err, full) || requests != 1 {
		t.Errorf("%v after %d requests", err, requests)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestRetryAfter(t *testing.T) {
	c := &peer{c: &Client{o: Options{Retry: Retry{Attempts: 3, Base: time.Millisecond, Max: 10 * time.Second}}}}
	resp := &http.Response{Header: http.Header{"Retry-After": {"7"}}}
	if d := c.pause(1, after(resp, errors.New("429"))); d != 7*time.Second {
		t.Errorf("%v", d)
	}
	resp.Header.Set("Retry-After", "86400")
	if d := c.pause(1, after(resp, errors.New("429"))); d != 10*time.Second {
		t.Errorf("%v", d)
	}
	for n := 1; n < 40; n++ {
		if d := c.pause(n, errors.New("x")); d <= 0 || d > 10*time.Second {
			t.Errorf("%d: %v", n, d)
		}
	}
}
