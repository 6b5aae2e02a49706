package registry

import (
	"strings"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
)

// note remembers who has sent a blob.
func (c *Client) note(d digest.Digest, senders []*peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.senders[d] = senders
}

// Distrust says that Blob has delivered a blob that has the digest got: somebody lied. The error says who it was.
// The host whose bytes came first is not asked for anything again by this client; again tells whether Blob can
// bring the right ones from those that are left.
func (c *Client) Distrust(desc ispec.Descriptor, got digest.Digest) (again bool, err error) {
	c.mu.Lock()
	senders := c.senders[desc.Digest]
	c.mu.Unlock()
	who := make([]string, len(senders))
	for i, p := range senders {
		who[i] = p.title()
	}
	if len(who) == 0 { // an empty blob
		who = []string{"the registry " + c.Host()}
	}
	err = kind.Errorf(ErrCorrupt, "%s sent another blob than %s (it is %s); do not trust it", strings.Join(who, ", or "), desc.Digest, got)
	if len(senders) == 0 {
		return false, err
	}
	senders[0].bury(err)
	return c.left() > 0, err
}

// Alternatives tells whether there is more than one host to ask for a blob.
func (c *Client) Alternatives() bool { return c.left() > 1 }

// left is how many hosts there are to ask for a blob.
func (c *Client) left() (n int) {
	for _, p := range c.peers {
		if p.host.Pull && p.gone() == nil {
			n++
		}
	}
	return n
}
