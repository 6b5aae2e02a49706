package test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// SIGHUP: what can be changed holds at once, what can't is said, and a mistake changes nothing.
func TestConfigurationIsReadAgain(t *testing.T) {
	m := newMachine(t)
	file := m.file("config.toml", "[log]\nformat = \"json\"\n")
	d := m.beginWith([]string{"BERTH_SUBNET=10.231.0.0/24"}, "--config", file, "cri")
	d.says(`"msg":"node is up"`)
	c := dialCRI(t, m.criSocket())
	pod, ctr := c.runPod("kept", "demo", "show", "--wait", "1h")
	before := c.pid(ctr)

	m.file("config.toml", "[log]\nformat = \"text\"\nlevel = \"debug\"\n")
	if err := os.Mkdir(filepath.Join(m.dir, "config.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.file("config.d/handlers.toml", "[handlers.strange]\nshim = \"containerd-shim-strange-v1\"\n")
	d.signal(syscall.SIGHUP)
	d.says(`"msg":"configuration was read again","changes":3`)
	for _, want := range []string{
		`"msg":"configuration changed","key":"log.level","from":"\"info\"","to":"\"debug\""`,
		`"msg":"configuration changed, and holds after a restart","key":"log.format"`,
		`"key":"handlers.strange.shim","from":"","to":"\"containerd-shim-strange-v1\""`,
	} {
		if !strings.Contains(d.err.String(), want) {
			t.Errorf("it did not say %s:\n%s", want, d.err)
		}
	}
	st, err := c.Status(c.ctx, &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	known := false
	for _, h := range st.RuntimeHandlers {
		known = known || h.Name == "strange"
	}
	if !known {
		t.Errorf("handlers: %v", st.RuntimeHandlers)
	}
	c.Exec(c.ctx, &cri.ExecRequest{ContainerId: "nobody", Cmd: []string{"x"}})
	d.says(`"level":"DEBUG"`)

	m.file("config.toml", "[log]\nlevle = \"error\"\n")
	d.signal(syscall.SIGHUP)
	d.says("did you mean log.level?")
	if after := c.pid(ctr); after != before {
		t.Errorf("before %v, after %v", before, after)
	}
	c.removePod(pod)
	d.signal(syscall.SIGTERM)
	if r := d.wait(); r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	// The next one does not start with it.
	if r := m.berth("--config", file, "cri"); r.code != 1 || !strings.Contains(r.stderr, file+":2: log.levle: there is no such key") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}
