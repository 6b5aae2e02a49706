package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// internet is all registries that critest's image names know (registry.k8s.io, gcr.io and so on), on one
// port of loopback. It is a registry without TLS for whoever speaks to it by its own name; and it is a
// proxy: whatever host is asked for through it is the same registry, with TLS, whose certificate is of an
// authority of its own. So the names in critest stay as they are.
type internet struct {
	addr     string
	registry http.Handler
	plain    *http.Server
	tls      *http.Server
	tunnels  *tunnels
	caFile   string
	ca       tls.Certificate
}

func openInternet(dir string) (*internet, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i := &internet{
		addr: l.Addr().String(), registry: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		tunnels: &tunnels{conns: make(chan net.Conn), ended: make(chan struct{}), addr: l.Addr()}, caFile: filepath.Join(dir, "ca.pem"),
	}
	if err := i.makeAuthority(); err != nil {
		l.Close()
		return nil, err
	}
	i.plain = &http.Server{Handler: i, ReadHeaderTimeout: 10 * time.Second}
	i.tls = &http.Server{Handler: i.registry, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go i.plain.Serve(l)
	go i.tls.Serve(tls.NewListener(i.tunnels, &tls.Config{GetCertificate: i.certificate}))
	return i, nil
}

func (i *internet) close() {
	i.plain.Close()
	i.tls.Close()
}

// environment leads a program to this internet.
func (i *internet) environment() []string {
	return []string{"HTTPS_PROXY=http://" + i.addr, "NO_PROXY=127.0.0.1", "SSL_CERT_FILE=" + i.caFile}
}

// ServeHTTP opens a tunnel, or answers as a registry.
func (i *internet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		i.registry.ServeHTTP(w, r)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		conn.Close()
		return
	}
	i.tunnels.put(conn)
}

func (i *internet) makeAuthority() error {
	cert, err := makeCertificate("critest", nil)
	if err != nil {
		return err
	}
	i.ca = cert
	return os.WriteFile(i.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o644)
}

// certificate is for whatever host a client believes to speak to.
func (i *internet) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, err := makeCertificate(h.ServerName, &i.ca)
	return &c, err
}

// makeCertificate makes one for a host, or an authority's own.
func makeCertificate(host string, by *tls.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	out := tls.Certificate{PrivateKey: key}
	parent, signer := t, any(key)
	if by == nil {
		t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		if parent, err = x509.ParseCertificate(by.Certificate[0]); err != nil {
			return out, err
		}
		signer = by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	out.Certificate = [][]byte{der}
	return out, err
}

// tunnels is a net.Listener of connections that came through the proxy.
type tunnels struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
	addr  net.Addr
}

func (t *tunnels) put(c net.Conn) {
	select {
	case t.conns <- c:
	case <-t.ended:
		c.Close()
	}
}

// Accept returns the next tunnel.
func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.conns:
		return c, nil
	case <-t.ended:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (t *tunnels) Close() error {
	t.once.Do(func() { close(t.ended) })
	return nil
}

// Addr is the proxy's.
func (t *tunnels) Addr() net.Addr { return t.addr }
