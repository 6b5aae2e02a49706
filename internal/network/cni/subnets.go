package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/11f9778f/berth/internal/network"
)

func (n *Network) subnetsFile() string { return filepath.Join(n.cfg.RunDir, "network", "subnets.json") }

// Subnets are what SetSubnets was told last; none, if it never was.
func (n *Network) Subnets() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.subnets)
}

// SetSubnets passes the node's pod CIDRs on: to plugins with the capability ipRanges, for the pods to come, and
// into the configuration that is made of the template, if there is one. Pods keep what they have.
func (n *Network) SetSubnets(_ context.Context, subnets []netip.Prefix) error {
	if err := network.CheckSubnets(subnets); err != nil {
		return fmt.Errorf("set pod subnets: %w", err)
	}
	if n.cfg.Template != "" {
		if err := n.render(subnets); err != nil {
			return fmt.Errorf("set pod subnets: %w", err)
		}
	}
	if err := network.Remember(n.subnetsFile(), subnets); err != nil {
		return fmt.Errorf("set pod subnets: %w", err)
	}
	n.mu.Lock()
	n.subnets = slices.Clone(subnets)
	n.mu.Unlock()
	return nil
}

// generated is the file that a template is made into.
const generated = "10-berth.conflist"

// render writes the template's configuration into the folder, in one step. The names in the template are those
// that containerd's templates have.
func (n *Network) render(subnets []netip.Prefix) error {
	text, err := readFile(n.cfg.Template, maxConf)
	if err != nil {
		return fmt.Errorf("template of the CNI configuration: %w", err)
	}
	t, err := template.New(filepath.Base(n.cfg.Template)).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return fmt.Errorf("template of the CNI configuration: %w", err)
	}
	data := struct {
		PodCIDR       string
		PodCIDRRanges []string
		Routes        []string
	}{}
	for _, s := range subnets {
		data.PodCIDRRanges = append(data.PodCIDRRanges, s.String())
		all := "0.0.0.0/0"
		if s.Addr().Is6() {
			all = "::/0"
		}
		data.Routes = append(data.Routes, all)
	}
	if len(subnets) > 0 {
		data.PodCIDR = subnets[0].String()
	}
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return fmt.Errorf("template of the CNI configuration: %w", err)
	}
	list, err := parseList([]byte(b.String()), true)
	if err == nil {
		err = checkList(list)
	}
	if err != nil {
		return fmt.Errorf("what %s gives is no CNI configuration: %w", n.cfg.Template, err)
	}
	if err := os.MkdirAll(n.cfg.ConfDir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(n.cfg.ConfDir, generated)
	if err := writeSynced(path+".new", []byte(b.String())); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	return os.Rename(path+".new", path)
}
