package image

import (
	"context"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/reference"
	"github.com/11f9778f/berth/internal/image/registry"
	"github.com/11f9778f/berth/internal/image/trust"
)

// Explanation is what a pull would do.
type Explanation struct {
	// Reference is the full name, with all that a short one leaves out.
	Reference string `json:"reference"`
	// Platform is what is chosen from an index, "linux/amd64".
	Platform string `json:"platform"`
	// Image is the ID of the image that has the name here already, or "".
	Image digest.Digest `json:"image,omitempty"`
	registry.Plan
	// Policy is what the image policy requires of the name; "" where there is none.
	Policy string `json:"policy,omitempty"`
	// Refused says why no container may be made of the image that has the name here.
	Refused string `json:"refused,omitempty"`
}

// Explain says what Pull would do, and asks nobody for it: which hosts, in which order, with which
// credentials, trusted by what.
func (s *Store) Explain(ctx context.Context, ref string, o PullOptions) (Explanation, error) {
	r, err := reference.Parse(ref)
	if err != nil {
		return Explanation{}, err
	}
	client, err := s.client(r, o)
	if err != nil {
		return Explanation{}, fmt.Errorf("explain %s: %w", r.Familiar(), err)
	}
	e := Explanation{Reference: r.String(), Platform: platforms.Format(s.wanted(o.Platform)), Plan: client.Plan(ctx)}
	if img, err := s.Get(ref); err == nil {
		e.Image = img.ID
		if err := s.Allowed(ref, ref); err != nil {
			e.Refused = err.Error()
		}
	}
	switch p, err := s.policy(); {
	case err != nil:
		e.Policy = err.Error()
	case p != nil:
		e.Policy = trust.Describe(p.For(r))
	}
	return e, nil
}
