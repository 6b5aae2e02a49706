package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxAnswer bounds what the client reads of one answer that is not a stream.
const maxAnswer = 64 << 20

// Client talks to a node over its unix socket. Its methods may be called from several goroutines.
type Client struct {
	http *http.Client
}

// NewClient returns a client of the node that listens at socket. It connects at the first call.
func NewClient(socket string) *Client {
	var d net.Dialer
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
	}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Healthz returns nil if the node answers.
func (c *Client) Healthz(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/healthz", nil, nil, nil)
}

// Apply sends manifests (YAML or JSON, several documents) and returns the pods made from them.
func (c *Client) Apply(ctx context.Context, manifest []byte) ([]v1.Pod, error) {
	if len(manifest) > MaxManifest {
		return nil, fmt.Errorf("the manifest has %d bytes; the limit is %d", len(manifest), MaxManifest)
	}
	var list v1.PodList
	err := c.call(ctx, http.MethodPost, "/manifests", nil, manifest, &list)
	return list.Items, err
}

// Pods returns every pod of the node with its status.
func (c *Client) Pods(ctx context.Context) ([]v1.Pod, error) {
	var list v1.PodList
	err := c.call(ctx, http.MethodGet, "/pods", nil, nil, &list)
	return list.Items, err
}

// Pod returns one pod. apierrors.IsNotFound tells that there is none.
func (c *Client) Pod(ctx context.Context, namespace, name string) (*v1.Pod, error) {
	var pod v1.Pod
	if err := c.call(ctx, http.MethodGet, podPath(namespace, name), nil, nil, &pod); err != nil {
		return nil, err
	}
	return &pod, nil
}

// Delete asks for the end of a pod and returns at once; a PodRemoved event tells when it is gone.
// grace nil means the pod's own grace period, in seconds.
func (c *Client) Delete(ctx context.Context, namespace, name string, grace *int64) (*v1.Pod, error) {
	q := url.Values{}
	if grace != nil {
		q.Set("gracePeriodSeconds", strconv.FormatInt(*grace, 10))
	}
	var pod v1.Pod
	if err := c.call(ctx, http.MethodDelete, podPath(namespace, name), q, nil, &pod); err != nil {
		return nil, err
	}
	return &pod, nil
}

// Shutdown asks the daemon to end. With ifIdle a node that has pods answers a conflict
// (apierrors.IsConflict) and lives on.
func (c *Client) Shutdown(ctx context.Context, ifIdle bool) error {
	q := url.Values{}
	if ifIdle {
		q.Set("ifIdle", "true")
	}
	return c.call(ctx, http.MethodPost, "/shutdown", q, nil, nil)
}

// ErrStop, returned by the function given to Events, ends the stream without an error.
var ErrStop = errors.New("stop")

// Events calls fn for each event after since, in order, until ctx ends, the connection breaks or fn
// returns an error (ErrStop: Events returns nil). A caller that lost its connection goes on with the
// Seq of the last event that it saw.
func (c *Client) Events(ctx context.Context, since uint64, fn func(Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "/events", url.Values{"since": {strconv.FormatUint(since, 10)}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var e Event
		if err := dec.Decode(&e); err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if err := fn(e); errors.Is(err, ErrStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Logs copies a container's log to w, standard output and error mixed as they were written.
func (c *Client) Logs(ctx context.Context, namespace, name, container string, o LogOptions, w io.Writer) error {
	q := url.Values{}
	set := func(on bool, key string) {
		if on {
			q.Set(key, "true")
		}
	}
	set(o.Follow, "follow")
	set(o.Previous, "previous")
	set(o.Timestamps, "timestamps")
	if o.TailLines != nil {
		q.Set("tailLines", strconv.FormatInt(*o.TailLines, 10))
	}
	if o.LimitBytes != nil {
		q.Set("limitBytes", strconv.FormatInt(*o.LimitBytes, 10))
	}
	if !o.Since.IsZero() {
		q.Set("sinceTime", o.Since.Format(time.RFC3339Nano))
	}
	path := "/containerLogs/" + url.PathEscape(namespace) + "/" + url.PathEscape(name) + "/" + url.PathEscape(container)
	resp, err := c.do(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

func podPath(namespace, name string) string {
	return "/pods/" + url.PathEscape(namespace) + "/" + url.PathEscape(name)
}

// call sends a request and decodes the answer into out, if there is one.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, body []byte, out any) error {
	resp, err := c.do(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
		return err
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}

// do returns an answer with a 2xx code, or an error that carries the node's metav1.Status.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	u := "http://berth" + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var st metav1.Status
	if err := json.Unmarshal(data, &st); err == nil && st.Status == metav1.StatusFailure {
		return nil, &apierrors.StatusError{ErrStatus: st}
	}
	return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(data))
}
