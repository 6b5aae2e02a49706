package registry

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/11f9778f/berth/internal/image/reference"
)

// Docker's configuration names a program that knows the credentials.
func TestCredentialHelper(t *testing.T) {
	blob := []byte("blob")
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "node" || p != "from-helper" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(401)
			return
		}
		w.Write(blob)
	})
	host := strings.TrimPrefix(srv.URL, "http://")
	dir := t.TempDir()
	put(t, filepath.Join(dir, "config.json"), `{"credHelpers":{"`+host+`":"berthtest"}}`)
	helper := filepath.Join(dir, "docker-credential-berthtest")
	put(t, helper, "#!/bin/sh\nread host\necho '{\"ServerURL\":\"'$host'\",\"Username\":\"node\",\"Secret\":\"from-helper\"}'\n")
	if err := os.Chmod(helper, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c := client(t, srv, func(o *Options) { o.Keychain = DockerKeychain{} })
	if b, err := c.Bytes(context.Background(), describe(blob)); err != nil || !bytes.Equal(b, blob) {
		t.Errorf("%q, %v", b, err)
	}
	want := Credential{Kind: "password", User: "node", Source: "docker's configuration"}
	if got := c.Plan(context.Background()).Hosts[0].Credential; got != want {
		t.Errorf("%+v", got)
	}
}

// A file with credentials that has no end, or too much in it, is told of and not read.
func TestCredentialFileTooLarge(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"too many bytes": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("{}"), 0o600), os.Truncate(path, maxKeychainFile+1))
		},
		"a FIFO":  func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"endless": func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		for variable, file := range map[string]string{"DOCKER_CONFIG": "config.json", "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": "containers/auth.json"} {
			t.Run(name+"/"+variable, func(t *testing.T) {
				dir := t.TempDir()
				noKeychainFiles(t)
				path, value := filepath.Join(dir, file), dir
				if file == "" {
					path = filepath.Join(dir, "auth.json")
					value = path
				}
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), make(path)); err != nil {
					t.Fatal(err)
				}
				t.Setenv(variable, value)
				if _, err := resolve(t); err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// noKeychainFiles takes the user's own away.
func noKeychainFiles(t *testing.T) {
	for _, v := range []string{"HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(v, "")
	}
}

// resolve asks for the credentials of registry.example.
func resolve(t *testing.T) (authn.Authenticator, error) {
	t.Helper()
	registry, err := name.NewRegistry("registry.example")
	if err != nil {
		t.Fatal(err)
	}
	return DockerKeychain{}.Resolve(registry)
}

// Where /dev/null stands in a file's place, there are no credentials.
func TestNoCredentialsFromDevNull(t *testing.T) {
	dir := t.TempDir()
	for _, link := range []string{"config.json", "containers/auth.json"} {
		path := filepath.Join(dir, link)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.Symlink(os.DevNull, path)); err != nil {
			t.Fatal(err)
		}
	}
	for variable, value := range map[string]string{"DOCKER_CONFIG": dir, "REGISTRY_AUTH_FILE": os.DevNull, "XDG_RUNTIME_DIR": dir, "XDG_CONFIG_HOME": dir} {
		t.Run(variable, func(t *testing.T) {
			noKeychainFiles(t)
			t.Setenv(variable, value)
			if a, err := resolve(t); err != nil || a != authn.Anonymous {
				t.Errorf("%v, %v", a, err)
			}
		})
	}
}

// Of several files one is read, and what is wrong with the others does not matter.
func TestOneCredentialFile(t *testing.T) {
	const good = `{"auths":{"registry.example":{"auth":"bWU6c2VjcmV0"}}}`
	for title, tt := range map[string]struct {
		good string // the others are endless
		bad  []string
	}{
		"docker's":                        {"docker/config.json", []string{"auth.json", "run/containers/auth.json", "config/containers/auth.json"}},
		"docker's, instead of the home's": {"docker/config.json", []string{"home/.docker/config.json"}},
		"the variable's":                  {"auth.json", []string{"run/containers/auth.json", "config/containers/auth.json"}},
		"of the run directory":            {"run/containers/auth.json", []string{"config/containers/auth.json", "home/.config/containers/auth.json"}},
		"of the configuration":            {"config/containers/auth.json", []string{"home/.config/containers/auth.json"}},
	} {
		t.Run(title, func(t *testing.T) {
			dir := t.TempDir()
			for variable, path := range map[string]string{"HOME": "home", "DOCKER_CONFIG": "docker", "REGISTRY_AUTH_FILE": "auth.json", "XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config"} {
				t.Setenv(variable, filepath.Join(dir, path))
			}
			for _, path := range append(tt.bad, tt.good) {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range tt.bad {
				if err := os.Symlink("/dev/zero", filepath.Join(dir, path)); err != nil {
					t.Fatal(err)
				}
			}
			put(t, filepath.Join(dir, tt.good), good)
			a, err := resolve(t)
			if err != nil {
				t.Fatal(err)
			}
			if c, err := a.Authorization(); err != nil || c.Username != "me" {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// Whatever stands in Docker's configuration, credentials are found, or there is an error without a secret, or none.
func FuzzDockerConfig(f *testing.F) {
	const secret = "s3cr3t-word"
	for _, seed := range []string{
		`{"auths":{"registry.example":{"auth":"bWU6czNjcjN0LXdvcmQ="}}}`, `{"auths":{"registry.example":{"auth":"!!!s3cr3t-word"}}}`,
		`{"auths":{"registry.example":{"username":"me","password":"s3cr3t-word","identitytoken":7}}}`, `{"auths":[]}`, `{"auths":{"registry.example":null}}`, `{`, ``,
	} {
		f.Add([]byte(seed))
	}
	ref, err := reference.Parse("registry.example/app:1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Contains(b, []byte("cred")) {
			t.Skip("it may name a program to run")
		}
		dir := t.TempDir()
		put(t, filepath.Join(dir, "config.json"), string(b))
		t.Setenv("DOCKER_CONFIG", dir)
		c, err := New(ref, Options{Keychain: DockerKeychain{}, Pool: NewPool(http.DefaultTransport), Retry: Retry{Attempts: 1}})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range c.peers {
			if _, cred, err := p.credential(context.Background()); err != nil && strings.Contains(err.Error(), secret) || strings.Contains(cred.String(), secret) && cred.User != secret {
				t.Errorf("a secret is told: %v, %v", cred, err)
			}
		}
	})
}
