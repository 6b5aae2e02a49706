package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/11f9778f/berth/internal/image"
)

// Images lists the images of the client's namespace.
func (c *Client) Images(ctx context.Context) ([]image.Image, error) {
	var out []image.Image
	return out, c.call(ctx, http.MethodGet, "/node/images", c.images(url.Values{}), &out)
}

// AllImages lists the images of all namespaces.
func (c *Client) AllImages(ctx context.Context) ([]image.Image, error) {
	var out []image.Image
	return out, c.call(ctx, http.MethodGet, "/node/images", url.Values{"all": {"true"}}, &out)
}

// images adds the namespace to what a call asks for.
func (c *Client) images(q url.Values) url.Values {
	q.Set("namespace", c.Namespace)
	return q
}

// Image finds one image by name or ID.
func (c *Client) Image(ctx context.Context, ref string) (image.Image, error) {
	var out image.Image
	return out, c.call(ctx, http.MethodGet, "/node/image", c.images(url.Values{"ref": {ref}}), &out)
}

// RemoveImage removes an image with all its names.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/node/image", c.images(url.Values{"ref": {ref}}), nil)
}

// Pull fetches an image and tells progress how far it is.
func (c *Client) Pull(ctx context.Context, ref string, progress func(image.Progress)) ([]image.Image, error) {
	return c.steps(ctx, "/node/images/pull", c.images(url.Values{"ref": {ref}}), nil, progress)
}

// Import takes the images of an archive; name is for one that has none.
func (c *Client) Import(ctx context.Context, name string, archive io.Reader, progress func(image.Progress)) ([]image.Image, error) {
	return c.steps(ctx, "/node/images/import", c.images(url.Values{"name": {name}}), archive, progress)
}

// ExplainImage says what a pull would do.
func (c *Client) ExplainImage(ctx context.Context, ref string) (image.Explanation, error) {
	var out image.Explanation
	return out, c.call(ctx, http.MethodGet, "/node/image/explain", c.images(url.Values{"ref": {ref}}), &out)
}

// ImageUsers tells which containers have an image: "container web of pod default/hello".
func (c *Client) ImageUsers(ctx context.Context, ref string) ([]string, error) {
	var out []string
	return out, c.call(ctx, http.MethodGet, "/node/image/users", c.images(url.Values{"ref": {ref}}), &out)
}

// TagImage gives an image one more name.
func (c *Client) TagImage(ctx context.Context, ref, name string) (image.Image, error) {
	var out image.Image
	return out, c.call(ctx, http.MethodPost, "/node/image/tag", c.images(url.Values{"ref": {ref}, "name": {name}}), &out)
}

// UntagImage takes a name from the image that has it.
func (c *Client) UntagImage(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/node/image/tag", c.images(url.Values{"name": {name}}), nil)
}

// PinImage keeps an image from being collected, or no longer does.
func (c *Client) PinImage(ctx context.Context, ref string, on bool) (image.Image, error) {
	var out image.Image
	return out, c.call(ctx, http.MethodPost, "/node/image/pin", c.images(url.Values{"ref": {ref}, "pin": {strconv.FormatBool(on)}}), &out)
}

// PushImage uploads an image under the name to, or its own where that is "". It returns the full name with
// the digest.
func (c *Client) PushImage(ctx context.Context, ref, to string, progress func(done, all int64)) (string, error) {
	last, err := c.lines(ctx, "/node/image/push", c.images(url.Values{"ref": {ref}, "to": {to}}), nil, func(s Step) bool {
		if s.Pushed == "" && progress != nil {
			progress(s.Sent, s.All)
		}
		return s.Pushed != ""
	})
	return last.Pushed, err
}

// ExportImages writes images as one archive.
func (c *Client) ExportImages(ctx context.Context, w io.Writer, refs ...string) error {
	resp, err := c.do(ctx, http.MethodGet, "/node/images/export", c.images(url.Values{"ref": refs}), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if said, err := strconv.Unquote(resp.Trailer.Get(trailerError)); err == nil {
		return errors.New(said)
	}
	return nil
}

// PruneImages removes images that nobody uses. Keep is the node's own.
func (c *Client) PruneImages(ctx context.Context, o image.PruneOptions) (image.Pruned, error) {
	q := url.Values{
		"untagged": {strconv.FormatBool(o.Untagged)}, "dry-run": {strconv.FormatBool(o.DryRun)}, "unused": {o.Unused.String()},
		"high": {strconv.Itoa(o.High)}, "low": {strconv.Itoa(o.Low)},
	}
	var out image.Pruned
	return out, c.call(ctx, http.MethodPost, "/node/images/prune", c.images(q), &out)
}

// steps reads a stream of Step to its last line.
func (c *Client) steps(ctx context.Context, path string, q url.Values, body io.Reader, progress func(image.Progress)) ([]image.Image, error) {
	last, err := c.lines(ctx, path, q, body, func(s Step) bool {
		if s.Progress != nil && progress != nil {
			progress(*s.Progress)
		}
		return s.Progress == nil
	})
	return last.Images, err
}

// lines calls heard with each line until it says that it was the last one, which is returned.
func (c *Client) lines(ctx context.Context, path string, q url.Values, body io.Reader, heard func(Step) (last bool)) (Step, error) {
	resp, err := c.do(ctx, http.MethodPost, path, q, body)
	if err != nil {
		return Step{}, err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var s Step
		if err := dec.Decode(&s); err != nil {
			return Step{}, fmt.Errorf("the node broke off: %w", err)
		}
		if s.Error != "" {
			return Step{}, errors.New(s.Error)
		}
		if heard(s) {
			return s, nil
		}
	}
}
