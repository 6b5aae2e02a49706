package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// leastInodes are those that a writable layer may have at least: its own folders, and the places of mounts, need some.
const leastInodes = 100

// maxSocket is the kernel's limit for the path of a unix socket.
const maxSocket = 107

var (
	linkName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	handlerName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// Check tells every value that can't be right, with its key and where it came from.
func (l *Loaded) Check() error {
	c := &checker{l: l}
	c.paths()
	c.oneOf("log.level", l.Log.Level, "debug", "info", "warn", "error")
	c.oneOf("log.format", l.Log.Format, "text", "json")
	c.streaming()
	c.within("shims.group_size", l.Shims.GroupSize, 1, 1000)
	c.within("shims.log_max_mib", l.Shims.LogMaxMiB, 0, 1<<20)
	c.within("shims.log_max_files", l.Shims.LogMaxFiles, 1, 1000)
	c.within("images.blanks", l.Images.Blanks, 0, 1000)
	c.handlers()
	c.network()
	c.images()
	c.oneOf("cgroup.driver", l.Cgroup.Driver, "auto", "cgroupfs", "systemd")
	slice := strings.HasSuffix(l.Cgroup.Parent, ".slice") && l.Cgroup.Driver != "cgroupfs"
	if p := l.Cgroup.Parent; p != "" && (!strings.HasPrefix(p, "/") && !slice || filepath.Clean(p) != p || p == "/") {
		c.bad("cgroup.parent", "%q is no cgroup: write it like \"/berth\"", p)
	}
	c.address("metrics.address", l.Metrics.Address)
	if u, err := url.Parse(l.Tracing.Endpoint); l.Tracing.Endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		c.bad("tracing.endpoint", "%q is no URL of a collector: write it like \"http://127.0.0.1:4318\"", l.Tracing.Endpoint)
	}
	if r := l.Tracing.SampleRatio; !(r >= 0 && r <= 1) {
		c.bad("tracing.sample_ratio", "%v is not from 0 to 1", r)
	}
	slices.SortFunc(c.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(c.errs...)
}

type checker struct {
	l    *Loaded
	errs []error
}

// Mistake is an error about a key, with where its value came from.
func (l *Loaded) Mistake(key, problem string) error {
	return fmt.Errorf("%s: %s: %s", l.Origin(key), key, problem)
}

func (c *checker) bad(key, format string, args ...any) {
	c.errs = append(c.errs, c.l.Mistake(key, fmt.Sprintf(format, args...)))
}

func (c *checker) oneOf(key, value string, known ...string) {
	if !slices.Contains(known, value) {
		c.bad(key, "there is no %q: use %s or %s", value, strings.Join(known[:len(known)-1], ", "), known[len(known)-1])
	}
}

func (c *checker) within(key string, n, least, most int) {
	if n < least || n > most {
		c.bad(key, "%d is not from %d to %d", n, least, most)
	}
}

// absolute checks a path; empty ones are somebody else's business.
func (c *checker) absolute(key, path string) {
	if path != "" && !filepath.IsAbs(path) {
		c.bad(key, "%q is no absolute path", path)
	}
}

// address checks host:port; empty is fine.
func (c *checker) address(key, a string) {
	if a == "" {
		return
	}
	if _, port, err := net.SplitHostPort(a); err != nil || !isPort(port) {
		c.bad(key, "%q is no address: write it like \"127.0.0.1:9745\"", a)
	}
}

func isPort(s string) bool {
	n, err := net.LookupPort("tcp", s)
	return err == nil && n >= 0 && s != ""
}

func (c *checker) paths() {
	for key, path := range map[string]string{"root": c.l.Root, "run": c.l.Run} {
		if path == "" {
			c.bad(key, "a folder is needed")
		}
		c.absolute(key, path)
	}
	c.absolute("cgroup.blockio_config_file", c.l.Cgroup.BlockIOConfigFile)
	c.absolute("cgroup.rdt_config_file", c.l.Cgroup.RDTConfigFile)
	c.absolute("checkpoint.criu", c.l.Checkpoint.CRIU)
	c.absolute("cri.socket", c.l.CRI.Socket)
	for key, path := range map[string]string{
		"nri.socket": c.l.NRI.Socket, "nri.plugins": c.l.NRI.Plugins, "nri.plugin_config": c.l.NRI.PluginConfig,
	} {
		c.absolute(key, path)
	}
	for _, dir := range c.l.CRI.CDIDirs {
		c.absolute("cri.cdi_dirs", dir)
	}
	if n := len(c.l.CRI.Socket); n > maxSocket {
		c.bad("cri.socket", "the path has %d bytes, and a socket's may have %d", n, maxSocket)
	}
}

func (c *checker) streaming() {
	s := c.l.Streaming
	if s.Address == "" {
		c.bad("streaming.address", "an address is needed, as \"127.0.0.1:0\"")
	}
	c.address("streaming.address", s.Address)
	for key, file := range map[string]string{"cert_file": s.CertFile, "key_file": s.KeyFile, "client_ca_file": s.ClientCAFile} {
		key = "streaming." + key
		c.absolute(key, file)
		if file != "" && !s.TLS {
			c.bad(key, "it has no effect without streaming.tls = true")
		}
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		key := "streaming.cert_file"
		if s.CertFile == "" {
			key = "streaming.key_file"
		}
		c.bad(key, "streaming.cert_file and streaming.key_file are needed both, or neither")
	}
	if s.IdleTimeout.Duration <= 0 {
		c.bad("streaming.idle_timeout", "it must be longer than nothing")
	}
}

func (c *checker) handlers() {
	for name, h := range c.l.Handlers {
		key := "handlers." + quoteKey(name)
		if !handlerName.MatchString(name) {
			c.bad(key, "a handler is called by a DNS label: small letters, digits and dashes, 63 bytes at most")
		}
		switch {
		case h.Shim == "":
			c.bad(key, "%s.shim, its binary, is missing", key)
		case strings.Contains(h.Shim, "/") && !filepath.IsAbs(h.Shim):
			c.bad(key+".shim", "%q is neither a name nor an absolute path", h.Shim)
		}
		for name, patterns := range map[string][]string{"pod_annotations": h.PodAnnotations, "container_annotations": h.ContainerAnnotations} {
			for _, p := range patterns {
				if _, err := path.Match(p, ""); err != nil || p == "" {
					c.bad(key+"."+name, "%q is no pattern of an annotation's name", p)
				}
			}
		}
	}
}

func (c *checker) network() {
	n := c.l.Network
	c.oneOf("network.driver", n.Driver, "bridge", "cni")
	if n.MTU != 0 {
		c.within("network.mtu", n.MTU, 576, 65535)
	}
	c.within("network.spares", n.Spares, 0, 256)
	c.cni()
	var have4, have6 bool
	for _, s := range n.Subnets {
		switch is4 := s.Addr().Is4(); {
		case s != s.Masked():
			c.bad("network.subnets", "%s has bits beyond its length: did you mean %s?", s, s.Masked())
		case is4 && have4, !is4 && have6:
			c.bad("network.subnets", "%s is the second of its family, and there can be one", s)
		default:
			have4, have6 = have4 || is4, have6 || !is4
		}
	}
	for key, name := range map[string]string{"network.bridge": n.Bridge, "network.nft_table": n.NftTable} {
		most := 64
		if key == "network.bridge" {
			most = 15
		}
		if name != "" && (len(name) > most || !linkName.MatchString(name)) {
			c.bad(key, "%q: at most %d letters, digits, dots and dashes", name, most)
		}
	}
}

func (c *checker) cni() {
	n := c.l.Network.CNI
	if n.ConfDir == "" {
		c.bad("network.cni.conf_dir", "a folder is needed")
	}
	c.absolute("network.cni.conf_dir", n.ConfDir)
	c.absolute("network.cni.template", n.Template)
	if len(n.BinDirs) == 0 {
		c.bad("network.cni.bin_dirs", "a folder is needed")
	}
	for _, dir := range n.BinDirs {
		c.absolute("network.cni.bin_dirs", dir)
	}
	if n.Timeout.Duration <= 0 {
		c.bad("network.cni.timeout", "it must be longer than nothing")
	}
}

func (c *checker) images() {
	i := c.l.Images
	c.within("images.downloads", i.Downloads, 1, 1000)
	c.within("images.unpacks", i.Unpacks, 0, 1000)
	c.within("images.gc_high_percent", i.GCHighPercent, 1, 100)
	c.within("images.gc_low_percent", i.GCLowPercent, 0, i.GCHighPercent)
	c.within("images.writable_limit_mib", i.WritableLimitMiB, 0, 1<<30)
	if n := i.WritableLimitInodes; n != 0 {
		c.within("images.writable_limit_inodes", n, leastInodes, 1<<30)
	}
	if i.GCMinAge.Duration < 0 {
		c.bad("images.gc_min_age", "it can't be less than nothing")
	}
	if i.GCMaxAge.Duration < 0 {
		c.bad("images.gc_max_age", "it can't be less than nothing")
	}
	if i.KeepForRetry.Duration < 0 {
		c.bad("images.keep_for_retry", "it can't be less than nothing")
	}
	c.absolute("images.policy", i.Policy)
	for _, dir := range i.RegistryDirs {
		c.absolute("images.registry_dirs", dir)
	}
	for _, host := range i.PlainHTTP {
		if host == "" || strings.ContainsAny(host, "/ \t") {
			c.bad("images.plain_http", "%q is no host: write it like \"registry.local:5000\"", host)
		}
	}
}
