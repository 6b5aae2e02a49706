package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/11f9778f/berth/internal/image/reference"
)

// configured makes a client of registry.example/team/app whose hosts.toml is text.
func configured(t *testing.T, text string, change func(*Options)) *Client {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "registry.example", "hosts.toml"), text)
	o := Options{
		Keychain: authn.NewMultiKeychain(), Dirs: []string{dir},
		Pool:  NewPool(&http.Transport{DialContext: noNetwork}),
		Retry: Retry{Attempts: 3, Base: time.Millisecond, Max: time.Minute, Stall: 5 * time.Second},
	}
	if change != nil {
		change(&o)
	}
	ref, err := reference.Parse("registry.example/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(ref, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Pool.Close)
	return c
}

// noNetwork reaches loopback alone; every name but that is refused.
func noNetwork(ctx context.Context, network, addr string) (net.Conn, error) {
	if host, _, _ := net.SplitHostPort(addr); host != "127.0.0.1" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("no network in this test")}
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// delivers serves the same blob at any path below root, and a ping.
func delivers(blob []byte, root string, seen func(*http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		seen(r)
		switch {
		case r.URL.Path == root+"/":
		case strings.HasPrefix(r.URL.Path, root+"/team/app/"):
			w.Write(blob)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

// Mirrors are asked in their order, each in its own way; what one does not deliver the next does.
func TestMirrors(t *testing.T) {
	blob := []byte("blob")
	var mu sync.Mutex
	var asked []string
	note := func(who string) func(*http.Request) {
		return func(r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if strings.Contains(r.URL.Path, "/app/") {
				asked = append(asked, fmt.Sprint(who, " ", r.URL.RequestURI(), " ", r.Header.Get("X-Key")))
			}
			if r.Header.Get("Authorization") != "" {
				t.Errorf("%s got the registry's credentials", who)
			}
		}
	}
	empty := serve(t, func(w http.ResponseWriter, r *http.Request) {
		note("empty")(r)
		if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	full := serve(t, delivers(blob, "/v2/hub", note("full")))
	c := configured(t, fmt.Sprintf(`
[host."https://down.example"]
[host.%q]
  [host.%q.header]
    x-key = "k1"
[host.%q]
  capabilities = ["pull"]
  override_path = true
`, empty.URL, empty.URL, full.URL+"/v2/hub"), func(o *Options) { o.Auth = &Auth{Username: "me", Password: "secret"} })
	d := describe(blob)
	for range 2 {
		if b, err := c.Bytes(context.Background(), d); err != nil || !bytes.Equal(b, blob) {
			t.Fatalf("%q, %v", b, err)
		}
	}
	path := "/team/app/blobs/" + d.Digest.String() + "?ns=registry.example"
	want := []string{"empty /v2" + path + " k1", "full /v2/hub" + path + " "}
	if got := strings.Join(asked, "\n"); got != strings.Join(append(want, want...), "\n") {
		t.Errorf("asked:\n%s", got)
	}
	// The second can't resolve tags; the error tells of all that were asked.
	_, err := c.Manifest(context.Background(), "1", nil)
	if !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), full.URL) || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	for _, word := range []string{"all 3 hosts", "hosts.toml", "mirror down.example can't be reached", "404", "without credentials", "the registry registry.example can't be reached"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %q", err, word)
		}
	}
}

// A blob that one host breaks off goes on at the next.
func TestNextHostGoesOn(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789"), 1000)
	var from atomic.Int64
	broken := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return
		}
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Write(blob[:4000])
	})
	whole := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", new(int64))
			var n int64
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &n)
			from.Store(n)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
		}
	})
	c := configured(t, fmt.Sprintf("server = %q\n[host.%q]\n", whole.URL, broken.URL), nil)
	var got bytes.Buffer
	if err := c.Blob(context.Background(), describe(blob), &got); err != nil || !bytes.Equal(got.Bytes(), blob) {
		t.Fatalf("%d bytes, %v", got.Len(), err)
	}
	if from.Load() != 4000 {
		t.Errorf("the second host was asked from byte %d on", from.Load())
	}
}

// A mirror that sends another manifest than the digest asked for is passed over.
func TestLyingMirror(t *testing.T) {
	truth := []byte(`{"schemaVersion":2}`)
	liar := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("{}")) })
	honest := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(truth) })
	c := configured(t, fmt.Sprintf("server = %q\n[host.%q]\n", honest.URL, liar.URL), nil)
	m, err := c.Manifest(context.Background(), describe(truth).Digest.String(), nil)
	if err != nil || !bytes.Equal(m.Bytes, truth) {
		t.Errorf("%q, %v", m.Bytes, err)
	}
	c = configured(t, fmt.Sprintf("server = %q\n", liar.URL), nil)
	if _, err := c.Manifest(context.Background(), describe(truth).Digest.String(), nil); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// What one host sends of a blob may be wrong: it is not asked again, and the next is, from the beginning.
func TestLyingMirrorOfBlobs(t *testing.T) {
	blob := bytes.Repeat([]byte("truth"), 1000)
	lie := bytes.Repeat([]byte("liars"), 1000)
	var asked atomic.Int32
	liar := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			asked.Add(1)
			w.Write(lie)
		}
	})
	half := serve(t, func(w http.ResponseWriter, r *http.Request) { // and breaks off
		if r.Header.Get("Range") == "" {
			w.Header().Set("Content-Length", fmt.Sprint(len(lie)))
			w.Write(lie[:100])
		} else {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	honest := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
	})
	c := configured(t, fmt.Sprintf("server = %q\n[host.%q]\n[host.%q]\n", honest.URL, half.URL, liar.URL), nil)
	for range 2 {
		if b, err := c.Bytes(context.Background(), describe(blob)); err != nil || !bytes.Equal(b, blob) {
			t.Fatalf("%.20q, %v", b, err)
		}
	}
	if n := asked.Load(); n == 0 || n > 2 {
		t.Errorf("the liar was asked %d times", n)
	}
	c = configured(t, fmt.Sprintf("server = %q\n[host.%q]\n", liar.URL, half.URL), nil)
	if _, err := c.Bytes(context.Background(), describe(blob)); !errors.Is(err, ErrCorrupt) ||
		!strings.Contains(err.Error(), "the registry "+strings.TrimPrefix(liar.URL, "http://")+" sent another blob") {
		t.Error(err)
	}
}

// The credentials of a pull go to the registry's own server, and to the host that they name.
func TestCredentialsOfHosts(t *testing.T) {
	blob := []byte("blob")
	var user atomic.Value
	private := serve(t, func(w http.ResponseWriter, r *http.Request) {
		u, p, ok := r.BasicAuth()
		if ok {
			user.Store(u)
		}
		if u != "me" || p != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(401)
			return
		}
		w.Write(blob)
	})
	host := strings.TrimPrefix(private.URL, "http://")
	server, mirror := fmt.Sprintf("server = %q\n", private.URL), fmt.Sprintf("[host.%q]\n", private.URL)
	for name, c := range map[string]struct {
		text    string
		address string
		ok      bool
	}{
		"server":                {server, "", true},
		"server by name":        {server, "https://registry.example/v1/", true},
		"server, other address": {server, "other.example", false},
		"mirror":                {mirror, "", false},
		"mirror by name":        {mirror, host, true},
		"mirror, other's":       {mirror, "registry.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			user.Store("")
			cl := configured(t, c.text, func(o *Options) { o.Auth = &Auth{Username: "me", Password: "secret", ServerAddress: c.address} })
			_, err := cl.Bytes(context.Background(), describe(blob))
			if (err == nil) != c.ok || (user.Load() == "me") != c.ok {
				t.Errorf("%v, user %q", err, user.Load())
			}
		})
	}
}

// A host that limits the rate is asked once after the time that it named, and then by all.
func TestRateLimitIsAnsweredOnce(t *testing.T) {
	blob := []byte("blob")
	var refused, served atomic.Int32
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			if refused.Add(1) == 1 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			served.Add(1)
			w.Write(blob)
		}
	})
	c := configured(t, fmt.Sprintf("server = %q\n", srv.URL), nil)
	if _, err := c.peers[0].connect(context.Background()); err != nil {
		t.Fatal(err)
	}
	// The first request meets the limit; those that come meanwhile must not.
	first := make(chan error, 1)
	go func() { _, err := c.Bytes(context.Background(), describe(blob)); first <- err }()
	l, err := c.peers[0].meet(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for l.ends().IsZero() {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	end := l.ends()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := c.Bytes(context.Background(), describe(blob)); err != nil {
				t.Error(err)
			}
			if time.Now().Before(end) {
				t.Errorf("asked %v after the refusal", time.Since(began))
			}
		})
	}
	wg.Wait()
	if err := <-first; err != nil {
		t.Error(err)
	}
	if refused.Load() != 22 || served.Load() != 21 {
		t.Errorf("%d requests, %d served; want 22 and 21", refused.Load(), served.Load())
	}
}

// A limit that lasts longer than anybody waits is told at once, and nobody asks again before its end.
func TestLongRateLimit(t *testing.T) {
	var requests atomic.Int32
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			requests.Add(1)
			w.Header().Set("Retry-After", time.Now().Add(6*time.Hour).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	c := configured(t, fmt.Sprintf("server = %q\n", srv.URL), nil)
	for range 3 {
		_, err := c.Manifest(context.Background(), "1", nil)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no requests before") {
			t.Fatal(err)
		}
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
	if p := c.Plan(context.Background()); p.Hosts[0].LimitedUntil == nil {
		t.Error("the plan does not tell of the limit")
	}
}

// certificate makes a self-signed client certificate in PEM form.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb}))
}

func TestTLS(t *testing.T) {
	blob := []byte("blob")
	var shown atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown.Store(int32(len(r.TLS.PeerCertificates)))
		w.Write(blob)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	cert, key := certificate(t)
	put(t, dir+"/me.crt", cert)
	put(t, dir+"/me.key", key)
	put(t, dir+"/ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	for name, c := range map[string]struct {
		text  string
		ok    bool
		shown int32
	}{
		"unknown authority": {"", false, 0},
		"ca":                {fmt.Sprintf("ca = %q\n", dir+"/ca.crt"), true, 0},
		"skip_verify":       {"skip_verify = true\n", true, 0},
		"client":            {fmt.Sprintf("ca = %q\nclient = [[%q, %q]]\n", dir+"/ca.crt", dir+"/me.crt", dir+"/me.key"), true, 1},
		"no such ca":        {fmt.Sprintf("ca = %q\n", dir+"/none.crt"), false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			shown.Store(0)
			cl := configured(t, fmt.Sprintf("server = %q\n", srv.URL)+c.text, nil)
			_, err := cl.Bytes(context.Background(), describe(blob))
			if (err == nil) != c.ok || shown.Load() != c.shown {
				t.Errorf("%v, %d certificates shown", err, shown.Load())
			}
			if name == "no such ca" && (err == nil || !strings.Contains(err.Error(), "none.crt")) {
				t.Error(err)
			}
		})
	}
}

// A host that is configured as https is never spoken to in the clear, be it on loopback.
func TestHTTPSMeansHTTPS(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { t.Error("asked without TLS") })
	c := configured(t, fmt.Sprintf("server = %q\n", strings.Replace(srv.URL, "http:", "https:", 1)), nil)
	if _, err := c.Manifest(context.Background(), "1", nil); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// What a proxy is configured for goes through it, and its password is told to nobody.
func TestProxy(t *testing.T) {
	blob := []byte("blob")
	var asked, user atomic.Value
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.String())
		user.Store(r.Header.Get("Proxy-Authorization"))
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.Write(blob)
		}
	})
	at, err := url.Parse(strings.Replace(proxy.URL, "http://", "http://me:s3cr3t@", 1))
	if err != nil {
		t.Fatal(err)
	}
	c := configured(t, "server = \"http://registry.example\"\n", func(o *Options) {
		o.Pool = NewPool(&http.Transport{DialContext: noNetwork, Proxy: http.ProxyURL(at)})
	})
	if b, err := c.Bytes(context.Background(), describe(blob)); err != nil || !bytes.Equal(b, blob) {
		t.Fatalf("%q, %v", b, err)
	}
	if got, want := asked.Load(), "http://registry.example/v2/team/app/blobs/"+describe(blob).Digest.String(); got != want {
		t.Errorf("the proxy was asked for %q, want %q", got, want)
	}
	if user.Load() == "" {
		t.Error("the proxy got no credentials")
	}
	if p := c.Plan(context.Background()).Hosts[0].Proxy; p != at.Redacted() || strings.Contains(p, "s3cr3t") {
		t.Errorf("the plan has the proxy %q", p)
	}
}

func TestPlan(t *testing.T) {
	c := configured(t, `
[host."http://mirror.example:5000"]
  capabilities = ["pull"]
  skip_verify = true
[host."https://two.example/cache"]
  [host."https://two.example/cache".header]
    authorization = "Bearer hidden"
`, func(o *Options) { o.Auth = &Auth{Username: "me", Password: "secret"} })
	p := c.Plan(context.Background())
	if len(p.Hosts) != 3 || !strings.HasSuffix(p.File, "registry.example/hosts.toml") {
		t.Fatalf("%+v", p)
	}
	a, b, s := p.Hosts[0], p.Hosts[1], p.Hosts[2]
	if a.URL != "http://mirror.example:5000/v2/team/app/manifests/1?ns=registry.example" || a.Asked || !a.Mirror || a.Credential.Kind != "none" {
		t.Errorf("%+v", a)
	}
	if b.URL != "https://two.example/cache/v2/team/app/manifests/1?ns=registry.example" || !b.Asked || strings.Join(b.Headers, "") != "Authorization" {
		t.Errorf("%+v", b)
	}
	if s.Mirror || s.Credential != (Credential{Kind: "password", User: "me", Source: "the pull"}) {
		t.Errorf("%+v", s)
	}
	if text := fmt.Sprintf("%+v", p); strings.Contains(text, "secret") || strings.Contains(text, "hidden") {
		t.Errorf("a secret is in %s", text)
	}
}
