package criu

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pb writes a message: pairs of a field's number and a uint64, a string, or a message.
func pb(pairs ...any) []byte {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		id := uint64(pairs[i].(int)) << 3
		switch v := pairs[i+1].(type) {
		case int:
			b = binary.AppendUvarint(binary.AppendUvarint(b, id), uint64(v))
		case string:
			b = append(binary.AppendUvarint(binary.AppendUvarint(b, id|2), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(binary.AppendUvarint(b, id|2), uint64(len(v))), v...)
		}
	}
	return b
}

// image writes messages with their sizes.
func image(messages ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	b = append(b, "KIND"...)
	for _, m := range messages {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	return b
}

func core(creds ...any) []byte {
	base := []any{1, 1000, 3, 1000, 5, 1000, 7, 1000, credsBnd, 0x420, credsBnd, 0, credsNoNewPrivs, 1}
	return image(pb(1, 1, coreTask, pb(taskOOMScore, 100), coreThread, pb(threadCreds, pb(append(base, creds...)...), threadSeccomp, 2)))
}

// fitting are images of a container that fits the table and the bounds below.
func fitting() map[string][]byte {
	return map[string][]byte{
		"inventory.img": image(pb(inventoryIDs, pb(5, 1, 6, 2, 9, 3, 10, 4))),
		"pstree.img":    image(pb(treePID, 1), pb(treePID, 7)),
		"ids-1.img":     image(pb(5, 11, 6, 12, 9, 13, 10, 4)),
		"ids-7.img":     image(pb(5, 11, 6, 12, 9, 13, 10, 4)),
		"core-1.img":    core(),
		"core-7.img":    core(),
		"mountpoints-13.img": image(pb(mntType, 17, mntRoot, "/", mntPoint, "/"), pb(mntType, 1, mntRoot, "/", mntPoint, "/proc", mntFlags, 0xe),
			pb(mntType, 1, mntRoot, "/sys", mntPoint, "/proc/sys", mntFlags, 0xf), pb(mntType, 3, mntRoot, "/null", mntPoint, "/proc/keys", mntKey, "/proc/keys", mntExternal, 1)),
		"core-9.img":  image(pb(1, 1, coreTask, pb(taskState, stateDead, 2, 256))), // a zombie
		"pages-1.img": []byte("memory"),
	}
}

const waitingMounts = `10 9 0:39 / / rw,relatime - overlay overlay rw
11 10 0:40 / /proc rw,nosuid,nodev,noexec - proc proc rw
12 11 0:40 /sys /proc/sys ro,nosuid,nodev,noexec - proc proc rw
13 11 0:6 /null /proc/keys rw - devtmpfs devtmpfs rw
`

func TestVerify(t *testing.T) {
	score := 100
	bounds := Bounds{Capabilities: 0x420, NoNewPrivileges: true, Seccomp: true, UID: 1000, OOMScoreAdj: &score}
	try := func(files map[string][]byte) error {
		dir := t.TempDir()
		for name, b := range files {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		mounts, err := parseMounts(waitingMounts)
		if err != nil {
			t.Fatal(err)
		}
		return verify(dir, bounds, mounts)
	}
	if err := try(fitting()); err != nil {
		t.Fatal(err)
	}
	mounts := fitting()["mountpoints-13.img"]
	with := func(m ...[]byte) []byte { return append(append([]byte{}, mounts...), image(m...)[8:]...) }
	for what, c := range map[string]struct {
		name string
		b    []byte // nil: it is missing
		says string
	}{
		"no inventory":           {"inventory.img", nil, "no such file"},
		"garbage":                {"inventory.img", []byte("\x16\x31\x31\x58\xff\xff\xff\xff"), "no image"},
		"the host's mounts":      {"ids-1.img", image(pb(5, 11, 6, 12, 9, 3, 10, 4)), "mount namespace"},
		"no mount namespace":     {"ids-1.img", image(pb(5, 11, 6, 12, 10, 4)), "mount namespace"},
		"the host's processes":   {"ids-1.img", image(pb(5, 1, 6, 12, 9, 13, 10, 4)), "PID namespace"},
		"the host's network":     {"ids-1.img", image(pb(5, 11, 6, 2, 9, 13, 10, 4)), "network namespace"},
		"mounts of its own":      {"ids-7.img", image(pb(5, 11, 6, 12, 9, 3, 10, 4)), "mount namespace"},
		"users of its own":       {"ids-7.img", image(pb(5, 11, 6, 12, 9, 13, 10, 5)), "user namespace"},
		"not the first":          {"pstree.img", image(pb(treePID, 2)), "PID namespace"},
		"two tables":             {"mountpoints-14.img", mounts, "mount tables"},
		"a mount more":           {"mountpoints-13.img", with(pb(mntType, 11, mntRoot, "/", mntPoint, "/debug")), "mounts /debug"},
		"another filesystem":     {"mountpoints-13.img", with(pb(mntType, 3, mntRoot, "/", mntPoint, "/proc", mntFlags, 0xe)), "something else"},
		"writable":               {"mountpoints-13.img", with(pb(mntType, 1, mntRoot, "/sys", mntPoint, "/proc/sys", mntFlags, 0xe)), "forbids more"},
		"a key of another mount": {"mountpoints-13.img", with(pb(mntType, 3, mntRoot, "/null", mntPoint, "/proc/keys", mntKey, "/data")), "calls its mount"},
		"unmasked":               {"mountpoints-13.img", image(pb(mntPoint, "/"), pb(mntType, 1, mntRoot, "/", mntPoint, "/proc", mntFlags, 0xe)), "the checkpoint does not"},
		"capabilities":           {"core-7.img", core(credsInh+1, 0x200420, credsInh+1, 0), "capabilities"},
		"capabilities, packed":   {"core-7.img", core(credsInh+2, "\xa0\x88\x80\x01\x00"), "capabilities"},
		"ambient capabilities":   {"core-7.img", core(credsAmb, 0, credsAmb, 1), "capabilities"},
		"privileges":             {"core-7.img", core(credsNoNewPrivs, 0), "gain privileges"},
		"root":                   {"core-7.img", core(3, 0), "is user 0"},
		"no filter":              {"core-7.img", image(pb(coreThread, pb(threadCreds, pb(1, 1000, 3, 1000, 5, 1000, 7, 1000, 18, 1)))), "seccomp"},
		"alive without a thread": {"core-9.img", image(pb(1, 1, coreTask, pb(taskState, stateDead, taskState, 1))), "no image"},
		"a zombie with rights":   {"core-9.img", image(pb(1, 1, coreTask, pb(taskState, stateDead, taskOOMScore, 100), coreThread, pb(threadCreds, pb(credsBnd, 1<<21)))), "capabilities"},
		"two threads in one":     {"core-7.img", image(pb(coreThread, pb(), coreThread, pb())), "no image"},
		"spared of the OOM killer": {"core-7.img", image(pb(coreTask, pb(taskOOMScore, -500), coreThread,
			pb(threadCreds, pb(1, 1000, 3, 1000, 5, 1000, 7, 1000, 18, 1), threadSeccomp, 2))), "OOM score"},
	} {
		files := fitting()
		files[c.name] = c.b
		if c.b == nil {
			delete(files, c.name)
		}
		err := try(files)
		if !errors.Is(err, ErrMismatch) && !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A link in the folder of images would be followed by CRIU.
func TestVerifyLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "pages-1.img")); err != nil {
		t.Fatal(err)
	}
	if err := verify(dir, Bounds{}, nil); !errors.Is(err, ErrMismatch) {
		t.Errorf("%v", err)
	}
}

func TestReadDescriptors(t *testing.T) {
	for text, want := range map[string]int{
		`{"file[18:3]":-1,"file[1b:a202c6]":1,"pipe:[77]":2}`: 3,
		`{}`:                       0,
		`{"file[18:3]":3}`:         -1,
		`{"net":1}`:                -1,
		`{"file[1:2],x":1}`:        -1,
		`[`:                        -1,
		`{"mnt[/]:/etc/shadow":1}`: -1,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, Descriptors), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readDescriptors(dir)
		if (err != nil) != (want < 0) || err == nil && len(got) != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "descriptors.json"), []byte(`["/dev/null","pipe:[5]","pipe:[6]"]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readDescriptors(dir); err != nil || len(got) != 2 || got["pipe:[6]"] != 2 {
		t.Errorf("runc's: %v, %v", got, err)
	}
}

func FuzzImages(f *testing.F) {
	for _, b := range fitting() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := records(b)
		if err != nil {
			return
		}
		for _, r := range list {
			m, err := parse(r)
			if err != nil {
				continue
			}
			m.number(1)
			m.text(7)
			m.mask(12)
			if sub, err := m.sub(5); err == nil {
				Bounds{}.allow(sub, m)
			}
			mountMatches(m, "/proc", map[string]mount{"/proc": {fstype: "proc", root: "/"}})
		}
	})
}
