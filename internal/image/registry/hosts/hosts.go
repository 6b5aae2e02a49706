// Package hosts finds out which hosts serve the images of a registry: the mirrors and TLS settings that
// containerd's certs.d/<registry>/hosts.toml describes (containerd, docs/hosts.md), or the certificates
// alone that Docker keeps in such a folder.
//
// It reads files, and only when it is asked: a changed file holds from the next pull on. It never talks to
// a network.
package hosts

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrConfig is a hosts.toml, or a file that it names, that can't be used.
var ErrConfig = errors.New("bad registry configuration")

// Host is one host that can be asked in a registry's name.
type Host struct {
	// URL has scheme, host and the root of the API, "https://mirror.example/v2". Scheme and host are empty
	// for the registry itself where no file names its server.
	URL url.URL
	// Server is the registry itself; everybody else is a mirror.
	Server bool
	// Pull: manifests by digest, and blobs. Resolve: tags. Push: uploads.
	Pull, Resolve, Push bool
	// Header are sent to this host alone.
	Header http.Header
	// CAs are files of authorities that count besides the system's.
	CAs []string
	// Pairs are certificate and key to show to this host, two files or twice the same.
	Pairs [][2]string
	// SkipVerify takes any certificate of this host.
	SkipVerify bool
	// DialTimeout bounds the making of a connection; 0 is the transport's own bound.
	DialTimeout time.Duration
}

// Hosts are the hosts of a registry in the order in which they are asked; the last is the registry itself.
type Hosts struct {
	List []Host
	// File is what they were read from: a hosts.toml, a folder of certificates, or "".
	File string
	// Notes are remarks on the file: keys that mean nothing.
	Notes []string
}

// Find reads what the first of dirs that has a folder for the registry says: the folders called host:port,
// host_port_ and _default are looked for, in that order. Without one there is the registry alone.
func Find(dirs []string, registry string) (Hosts, error) {
	for _, dir := range dirs {
		for _, name := range folders(registry) {
			path := filepath.Join(dir, name)
			fi, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return Hosts{}, fmt.Errorf("%w: %w", ErrConfig, err)
			}
			if !fi.IsDir() {
				continue
			}
			h, err := read(path)
			if err != nil {
				return Hosts{}, fmt.Errorf("%w: %w", ErrConfig, err)
			}
			return h, nil
		}
	}
	return Hosts{List: []Host{itself()}}, nil
}

// folders are the names of a registry's folder. A registry is a host as reference.Parse lets it through:
// it has no slash and is not "..".
func folders(registry string) []string {
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		names = append([]string{registry[:i] + "_" + registry[i+1:] + "_"}, names...)
	}
	return names
}

// itself is the registry where nothing is said about it.
func itself() Host { return Host{Server: true, Pull: true, Resolve: true, Push: true} }

const (
	maxFile = 1 << 20
	maxHost = 64
)

// read reads a registry's folder.
func read(dir string) (Hosts, error) {
	path := filepath.Join(dir, "hosts.toml")
	b, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return readCertificates(dir)
	}
	if err != nil {
		return Hosts{}, err
	}
	h, err := Parse(b, dir)
	if err != nil {
		return Hosts{}, fmt.Errorf("%s: %w", path, err)
	}
	h.File = path
	return h, nil
}

func readFile(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxFile {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

// readCertificates reads a folder as Docker has it: *.crt are authorities, *.cert with *.key are ours.
func readCertificates(dir string) (Hosts, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Hosts{}, err
	}
	host := itself()
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(path, ".crt") {
			host.CAs = append(host.CAs, path)
		}
		if base, ok := strings.CutSuffix(path, ".cert"); ok {
			pair := [2]string{path, base + ".key"}
			if _, err := os.Stat(pair[1]); errors.Is(err, fs.ErrNotExist) {
				pair[1] = path
			}
			host.Pairs = append(host.Pairs, pair)
		}
	}
	if len(host.CAs)+len(host.Pairs) == 0 {
		return Hosts{List: []Host{host}}, nil
	}
	return Hosts{List: []Host{host}, File: dir}, nil
}

// Own says whether the host needs a TLS configuration, or a dial timeout, of its own.
func (h *Host) Own() bool {
	return len(h.CAs)+len(h.Pairs) > 0 || h.SkipVerify || h.DialTimeout > 0
}

// TLS reads the files that the host names. trusted are the authorities alone, for the other hosts that it
// leads to: a token server, a store of blobs. own is for the host itself: with our certificates.
func (h *Host) TLS() (own, trusted *tls.Config, err error) {
	var roots *x509.CertPool
	if len(h.CAs) > 0 {
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool()
		}
	}
	for _, path := range h.CAs {
		b, err := readFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: ca: %w", ErrConfig, err)
		}
		if !roots.AppendCertsFromPEM(b) {
			return nil, nil, fmt.Errorf("%w: ca: %s has no certificate in PEM form", ErrConfig, path)
		}
	}
	trusted = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	own = trusted.Clone()
	own.InsecureSkipVerify = h.SkipVerify
	for _, p := range h.Pairs {
		cert, err := readFile(p[0])
		if err != nil {
			return nil, nil, fmt.Errorf("%w: client: %w", ErrConfig, err)
		}
		key, err := readFile(p[1])
		if err != nil {
			return nil, nil, fmt.Errorf("%w: client: %w", ErrConfig, err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: client: %s, %s: %w", ErrConfig, p[0], p[1], err)
		}
		own.Certificates = append(own.Certificates, pair)
	}
	return own, trusted, nil
}
