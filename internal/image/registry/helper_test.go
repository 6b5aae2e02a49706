package registry

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
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
	c := client(t, srv, func(o *Options) { o.Keychain = authn.DefaultKeychain })
	if b, err := c.Bytes(context.Background(), describe(blob)); err != nil || !bytes.Equal(b, blob) {
		t.Errorf("%q, %v", b, err)
	}
	want := Credential{Kind: "password", User: "node", Source: "docker's configuration"}
	if got := c.Plan(context.Background()).Hosts[0].Credential; got != want {
		t.Errorf("%+v", got)
	}
}
