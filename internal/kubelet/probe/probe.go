// Package probe asks a container once how it is: by a command in it, by HTTP or by opening a TCP
// connection. What follows from the answer is decided elsewhere (lifecycle).
//
// Run returns within the probe's timeout, save where the runtime's own exec overruns it.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxOutput bounds what of an answer is read and told, in bytes.
const maxOutput = 10 << 10

// Exec runs a command in the container. The error is for a command that could not be run at all.
type Exec func(ctx context.Context, command []string, timeout time.Duration) (output []byte, exitCode int32, err error)

// Target is the container that is asked.
type Target struct {
	Container *v1.Container
	PodIP     string
	Exec      Exec
}

// Run runs the probe once. The message tells people why it is not good.
func Run(ctx context.Context, p *v1.Probe, t Target) (good bool, message string) {
	timeout := time.Duration(p.TimeoutSeconds) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var err error
	switch {
	case p.Exec != nil:
		err = t.exec(ctx, p.Exec.Command, timeout)
	case p.HTTPGet != nil:
		err = t.http(ctx, p.HTTPGet)
	case p.TCPSocket != nil:
		err = t.tcp(ctx, p.TCPSocket)
	default:
		err = errors.New("the probe has no handler")
	}
	if err != nil {
		return false, err.Error()
	}
	return true, ""
}

func (t *Target) exec(ctx context.Context, command []string, timeout time.Duration) error {
	out, code, err := t.Exec(ctx, command, timeout)
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	if code != 0 {
		return fmt.Errorf("%s: exit code %d: %s", strings.Join(command, " "), code, strings.TrimSpace(string(out[:min(len(out), maxOutput)])))
	}
	return nil
}

func (t *Target) tcp(ctx context.Context, a *v1.TCPSocketAction) error {
	addr, err := t.address(a.Host, a.Port)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	if c, ok := conn.(*net.TCPConn); ok {
		c.SetLinger(0) // no TIME_WAIT a probe
	}
	return conn.Close()
}

func (t *Target) http(ctx context.Context, a *v1.HTTPGetAction) error {
	addr, err := t.address(a.Host, a.Port)
	if err != nil {
		return err
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		return fmt.Errorf("path %q: %w", a.Path, err)
	}
	u.Scheme, u.Host = strings.ToLower(string(a.Scheme)), addr
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "berth-probe/1")
	req.Header.Set("Accept", "*/*")
	for _, h := range a.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
		} else {
			req.Header.Set(h.Name, h.Value)
		}
	}
	resp, err := client(addr).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("GET %s: %s: %.200s", u.Redacted(), resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// client makes a client for one request: no connection is kept, no proxy asked, and a redirect is followed
// only on the same host; one to another host counts as an answer, as with a kubelet.
func client(addr string) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // a probe asks for life, not for identity
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Host != addr || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

// address is where host (default: the pod) and port (a number or a name of the container's) are.
func (t *Target) address(host string, port intstr.IntOrString) (string, error) {
	if host == "" {
		host = t.PodIP
	}
	if host == "" {
		return "", errors.New("the pod has no address yet")
	}
	n := port.IntVal
	if port.Type == intstr.String {
		for _, p := range t.Container.Ports {
			if p.Name == port.StrVal {
				n = p.ContainerPort
			}
		}
	}
	if n == 0 {
		return "", fmt.Errorf("the container has no port named %q", port.StrVal)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(n))), nil
}
