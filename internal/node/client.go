package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Client calls what a node serves below /node/. Its methods may be called from several goroutines.
type Client struct {
	http *http.Client
	// Namespace is that of the images that the client's calls are about; "" is Kubernetes'.
	Namespace string
}

// NewClient returns a client of the node that listens at socket. It connects at the first call.
func NewClient(socket string) *Client {
	var d net.Dialer
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}}
}

// Info asks the node who it is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var out Info
	return out, c.call(ctx, http.MethodGet, "/node/info", nil, &out)
}

// Inventory lists what Berth has on disk and in the kernel.
func (c *Client) Inventory(ctx context.Context) ([]Item, error) {
	var out []Item
	return out, c.call(ctx, http.MethodGet, "/node/inventory", nil, &out)
}

// Repair removes what nobody owns and lists it.
func (c *Client) Repair(ctx context.Context) ([]Item, error) {
	var out []Item
	return out, c.call(ctx, http.MethodPost, "/node/repair", nil, &out)
}

// Networks lists what pods have of the network.
func (c *Client) Networks(ctx context.Context) ([]PodNetwork, error) {
	var out []PodNetwork
	return out, c.call(ctx, http.MethodGet, "/node/network", nil, &out)
}

// CheckNetwork looks for what is wrong with a pod's network, or with every pod's where name is empty.
func (c *Client) CheckNetwork(ctx context.Context, namespace, name string) ([]PodNetworkCheck, error) {
	var out []PodNetworkCheck
	return out, c.call(ctx, http.MethodGet, "/node/network/check", url.Values{"namespace": {namespace}, "pod": {name}}, &out)
}

// Trace tells where the time of a pod's start went.
func (c *Client) Trace(ctx context.Context, namespace, name string) (Trace, error) {
	var out Trace
	return out, c.call(ctx, http.MethodGet, "/node/trace/"+url.PathEscape(namespace)+"/"+url.PathEscape(name), nil, &out)
}

// Checkpoint writes a checkpoint of a pod's containers into an empty folder of the node, of all that run where none is named.
func (c *Client) Checkpoint(ctx context.Context, namespace, name, folder string, containers []string) (Checkpoint, error) {
	var out Checkpoint
	return out, c.call(ctx, http.MethodPost, "/node/checkpoint/"+url.PathEscape(namespace)+"/"+url.PathEscape(name),
		url.Values{"folder": {folder}, "container": containers}, &out)
}

func (c *Client) call(ctx context.Context, method, path string, q url.Values, out any) error {
	resp, err := c.do(ctx, method, path, q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}

// do returns an answer with a 2xx code, or the node's sentence as an error.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Response, error) {
	u := "http://berth" + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call the node: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	var s Step
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s); err != nil || s.Error == "" {
		return nil, fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return nil, errors.New(s.Error)
}
