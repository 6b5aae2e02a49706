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
// auth.json. A file that is no file, or has more than 4 MiB, is an error and is not read.
type DockerKeychain struct{}

// Resolve implements authn.Keychain.
func (k DockerKeychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain.
func (DockerKeychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	for _, path := range keychainFiles() {
		if err := checkKeychainFile(path); err != nil {
			return nil, err
		}
	}
	return authn.Resolve(ctx, authn.DefaultKeychain, target)
}

// keychainFiles are those that authn.DefaultKeychain may read.
func keychainFiles() []string {
	files := []string{os.Getenv("REGISTRY_AUTH_FILE")}
	add := func(dir, name string) {
		if dir != "" {
			files = append(files, filepath.Join(dir, name))
		}
	}
	home, _ := os.UserHomeDir() // without one there is no file in it
	add(os.Getenv("DOCKER_CONFIG"), "config.json")
	add(home, ".docker/config.json")
	add(os.Getenv("XDG_RUNTIME_DIR"), "containers/auth.json")
	add(os.Getenv("XDG_CONFIG_HOME"), "containers/auth.json")
	add(home, ".config/containers/auth.json")
	return files
}

func checkKeychainFile(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil || fi.IsDir():
		return nil // there is none, or whoever reads it says what is wrong
	case !fi.Mode().IsRegular():
		return fmt.Errorf("read the credentials in %s: it is no regular file", path)
	case fi.Size() > maxKeychainFile:
		return fmt.Errorf("read the credentials in %s: it has %d bytes, more than %d", path, fi.Size(), maxKeychainFile)
	}
	return nil
}
