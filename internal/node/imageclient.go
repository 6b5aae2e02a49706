package node

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/11f9778f/berth/internal/image"
)

// Images lists the images in the store.
func (c *Client) Images(ctx context.Context) ([]image.Image, error) {
	var out []image.Image
	return out, c.call(ctx, http.MethodGet, "/node/images", nil, &out)
}

// Image finds one image by name or ID.
func (c *Client) Image(ctx context.Context, ref string) (image.Image, error) {
	var out image.Image
	return out, c.call(ctx, http.MethodGet, "/node/image", url.Values{"ref": {ref}}, &out)
}

// RemoveImage removes an image with all its names.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/node/image", url.Values{"ref": {ref}}, nil)
}

// Pull fetches an image and tells progress how far it is.
func (c *Client) Pull(ctx context.Context, ref string, progress func(image.Progress)) ([]image.Image, error) {
	return c.steps(ctx, "/node/images/pull", url.Values{"ref": {ref}}, nil, progress)
}

// Import takes the images of an archive; name is for one that has none.
func (c *Client) Import(ctx context.Context, name string, archive io.Reader, progress func(image.Progress)) ([]image.Image, error) {
	return c.steps(ctx, "/node/images/import", url.Values{"name": {name}}, archive, progress)
}

// ExplainImage says what a pull would do.
func (c *Client) ExplainImage(ctx context.Context, ref string) (image.Explanation, error) {
	var out image.Explanation
	return out, c.call(ctx, http.MethodGet, "/node/image/explain", url.Values{"ref": {ref}}, &out)
}
