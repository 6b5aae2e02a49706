package registry

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
)

// maxKeychainFile bounds the bytes of a file with credentials.
const maxKeychainFile = 4 << 20

// DockerKeychain has the credentials of Docker's config.json, with its helpers, or where there is none those of podman's
// auth.json. /dev/null in its place has none; another file that is no file, or has more than 4 MiB, is an error and not read.
type DockerKeychain struct{}

// Resolve implements authn.Keychain.
func (k DockerKeychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain.
func (DockerKeychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	if err := checkKeychainFile(keychainFile()); err != nil {
		return nil, err
	}
	return authn.Resolve(ctx, authn.DefaultKeychain, target)
}

// keychainFile is the one that authn.DefaultKeychain reads; there may be none.
func keychainFile() string {
	home, err := os.UserHomeDir()
	inHome := func(name string) string {
		if err != nil {
			return ""
		}
		return filepath.Join(home, name)
	}
	below := func(variable, otherwise, name string) string {
		if dir := os.Getenv(variable); dir != "" {
			return filepath.Join(dir, name)
		}
		return otherwise
	}
	docker := below("DOCKER_CONFIG", inHome(".docker/config.json"), "config.json")
	if isThere(docker) || isThere(inHome(".docker/config.json")) { // with that one docker's is read, even if it is not there
		return docker
	}
	inConfig := below("XDG_CONFIG_HOME", inHome(".config/containers/auth.json"), "containers/auth.json")
	for _, path := range []string{os.Getenv("REGISTRY_AUTH_FILE"), below("XDG_RUNTIME_DIR", "", "containers/auth.json")} {
		if isThere(path) {
			return path
		}
	}
	return inConfig
}

func isThere(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && !fi.IsDir()
}

func checkKeychainFile(path string) error {
	fi, err := os.Stat(path)
	if err != nil || fi.IsDir() {
		return nil // there is none, or whoever reads it says what is wrong
	}
	null, err := os.Stat(os.DevNull)
	switch {
	case err == nil && os.SameFile(fi, null):
		return nil // how to say that there are none
	case !fi.Mode().IsRegular():
		return fmt.Errorf("read the credentials in %s: it is no regular file", path)
	case fi.Size() > maxKeychainFile:
		return fmt.Errorf("read the credentials in %s: it has %d bytes, more than %d", path, fi.Size(), maxKeychainFile)
	}
	return nil
}
