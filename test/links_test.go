package test

import (
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/11f9778f/berth/internal/node"
)

// removeLinks deletes the links of a node whose test failed.
func removeLinks(names node.Names) {
	all, err := netlink.LinkList()
	if err != nil {
		return
	}
	for _, l := range all {
		if n := l.Attrs().Name; n == names.Bridge || strings.HasPrefix(n, names.LinkPrefix) {
			netlink.LinkDel(l)
		}
	}
}
