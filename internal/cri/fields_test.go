package cri

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "write docs/cri-fields.md anew")

const fieldsPage = "../../docs/cri-fields.md"

// fieldRow is a line of testdata/fields.txt, whose head says what it is.
type fieldRow struct {
	path, what, tests, words string
	used                     bool
}

type fieldTable map[string]*fieldRow

func readFields(t *testing.T) fieldTable {
	t.Helper()
	b, err := os.ReadFile("testdata/fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := fieldTable{}
	for n, line := range strings.Split(string(b), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "|")
		if len(f) != 4 {
			t.Fatalf("fields.txt:%d: %q is not PATH | WHAT | TESTS | WORDS", n+1, line)
		}
		r := &fieldRow{path: strings.TrimSpace(f[0]), what: strings.TrimSpace(f[1]), tests: strings.TrimSpace(f[2]), words: strings.TrimSpace(f[3])}
		if out[r.path] != nil {
			t.Errorf("fields.txt:%d: %s comes twice", n+1, r.path)
		}
		out[r.path] = r
	}
	return out
}

// find returns the row of a field, or of the nearest message that it is in.
func (f fieldTable) find(path string) *fieldRow {
	for {
		if r := f[path]; r != nil {
			r.used = true
			return r
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			return nil
		}
		path = path[:i]
	}
}

// leaves calls f for every field of a message that is no message itself, by its path. The walk goes into no message that
// has a part of its own in the table.
func leaves(md protoreflect.MessageDescriptor, f func(path []protoreflect.FieldDescriptor)) {
	var walk func(path []protoreflect.FieldDescriptor, md protoreflect.MessageDescriptor)
	walk = func(path []protoreflect.FieldDescriptor, md protoreflect.MessageDescriptor) {
		for i := range md.Fields().Len() {
			here := append(path[:len(path):len(path)], md.Fields().Get(i))
			switch fd := here[len(here)-1]; {
			case fd.Message() == nil || fd.IsMap() || apart[fd.Message().Name()]:
				f(here)
			default:
				walk(here, fd.Message())
			}
		}
	}
	walk(nil, md)
}

// apart are messages that appear in several others and mean the same there.
var apart = map[protoreflect.Name]bool{
	"PodSandboxConfig": true, "ContainerConfig": true, "ContainerStatus": true, "PodSandboxStatus": true, "ContainerStats": true, "PodSandboxStats": true,
	"Image": true, "Container": true, "PodSandbox": true,
}

// messages returns the requests or the responses of all calls, and the parts of their own that they have.
func messages(t *testing.T, suffixes ...string) []protoreflect.MessageDescriptor {
	t.Helper()
	file := (&runtimeapi.VersionRequest{}).ProtoReflect().Descriptor().ParentFile()
	calls := 0
	seen := map[protoreflect.Name]bool{}
	var out []protoreflect.MessageDescriptor
	var add func(md protoreflect.MessageDescriptor)
	add = func(md protoreflect.MessageDescriptor) {
		if seen[md.Name()] {
			return
		}
		seen[md.Name()] = true
		out = append(out, md)
		leaves(md, func(path []protoreflect.FieldDescriptor) {
			if m := path[len(path)-1].Message(); m != nil && apart[m.Name()] {
				add(m)
			}
		})
	}
	for i := range file.Services().Len() {
		for j := range file.Services().Get(i).Methods().Len() {
			m := file.Services().Get(i).Methods().Get(j)
			calls++
			for _, md := range []protoreflect.MessageDescriptor{m.Input(), m.Output()} {
				if slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(string(md.Name()), s) }) {
					add(md)
				}
			}
		}
	}
	if calls != 43 {
		t.Errorf("cri-api has %d calls: is the table still whole?", calls)
	}
	return out
}

// Every field of every request of the CRI is in the table that says what Berth does with it, and the tests that the table
// names exist. The page about it is written from the same table.
func TestEveryFieldIsAnswered(t *testing.T) {
	table := readFields(t)
	tests := testNames(t)
	var page strings.Builder
	page.WriteString(pageHead)
	part := func(md protoreflect.MessageDescriptor) {
		var rows []*fieldRow
		leaves(md, func(path []protoreflect.FieldDescriptor) {
			full := string(md.Name()) + "." + name(path)
			r := table.find(full)
			switch {
			case r == nil:
				t.Errorf("%s is not in testdata/fields.txt", full)
			case !slices.Contains(rows, r):
				rows = append(rows, r)
			}
		})
		if len(rows) == 0 {
			return
		}
		fmt.Fprintf(&page, "\n### %s\n\n| field | | |\n|---|---|---|\n", md.Name())
		for _, r := range rows {
			words := r.words
			if r.tests != "" {
				words += " <br>`" + strings.ReplaceAll(r.tests, ", ", "` `") + "`"
			}
			fmt.Fprintf(&page, "| `%s` | %s | %s |\n", strings.TrimPrefix(r.path, string(md.Name())+"."), r.what, words)
		}
	}
	page.WriteString("\n## Requests\n")
	for _, md := range messages(t, "Request") {
		part(md)
	}
	page.WriteString("\n## Answers\n")
	for _, md := range messages(t, "Response") {
		part(md)
	}
	for _, r := range table {
		switch {
		case !r.used:
			t.Errorf("%s: there is no such field", r.path)
		case !slices.Contains([]string{"used", "refused", "ignored", "kept", "filled", "empty", "see"}, strings.Fields(r.what)[0]):
			t.Errorf("%s: %q is none of what can be done with a field", r.path, r.what)
		case r.tests == "" && (r.what == "used" || r.what == "refused"):
			t.Errorf("%s is %s, and no test shows it", r.path, r.what)
		case r.words == "" && (r.what == "ignored" || r.what == "empty"):
			t.Errorf("%s is %s: for what reason?", r.path, r.what)
		}
		for _, name := range strings.Split(r.tests, ", ") {
			if name != "" && !tests[name] {
				t.Errorf("%s: there is no test %q", r.path, name)
			}
		}
	}
	samePage(t, fieldsPage, page.String())
}

const pageHead = `# Every field of the CRI

Written from internal/cri/testdata/fields.txt by ` + "`go test ./internal/cri -run TestEveryFieldIsAnswered -update`" + `; the test fails
when a field of cri-api is missing here, or a test that is named is not there. What is **used** does something, as the
tests named show; **kept** is stored and told again, and does nothing else; **refused** is an error that names the field;
**ignored** does nothing, for the reason given. A second test changes each field of a pod's and a container's
configuration and sees that what is used or refused makes a difference, and what is ignored none. Answers: **filled**, or
**empty** for the reason given.
`

func samePage(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile(path); err != nil || string(have) != want {
		t.Errorf("%s is not what the table says (%v): go test ./internal/cri -run TestEveryFieldIsAnswered -update", path, err)
	}
}

// testNames finds the tests of the whole project and the packages that have some, and the checks of test/criconformance.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	test := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	check := regexp.MustCompile(`(?m)^\t\t\{"([^"]+)", \w+\},$`)
	for _, dir := range []string{"../../internal", "../../test", "../../cmd"} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") {
				return err
			}
			src, err := os.ReadFile(path)
			if strings.HasSuffix(path, "_test.go") {
				out[strings.TrimPrefix(filepath.Dir(path), "../../")] = true
				for _, m := range test.FindAllStringSubmatch(string(src), -1) {
					out[m[1]] = true
				}
			} else if strings.HasSuffix(path, "criconformance/suite.go") {
				for _, m := range check.FindAllStringSubmatch(string(src), -1) {
					out["conformance: "+m[1]] = true
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// with sets what a field needs beside it to be looked at.
var with = map[string]func(proto.Message){
	"PodSandboxConfig.linux.overhead": func(m proto.Message) {
		m.(*runtimeapi.PodSandboxConfig).Linux.Resources = &runtimeapi.LinuxContainerResources{CpuQuota: 1, CpuShares: 1, MemoryLimitInBytes: 1, MemorySwapLimitInBytes: 1}
	},
	"PodSandboxConfig.linux.overhead.cpu_period": func(m proto.Message) {
		l := m.(*runtimeapi.PodSandboxConfig).Linux
		l.Overhead = &runtimeapi.LinuxContainerResources{CpuQuota: 1000}
		l.Resources = &runtimeapi.LinuxContainerResources{CpuQuota: 1000}
	},
	"PodSandboxConfig.port_mappings": func(m proto.Message) {
		m.(*runtimeapi.PodSandboxConfig).PortMappings = []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 80}}
	},
	"ContainerConfig.linux.security_context.namespace_options.target_id": func(m proto.Message) {
		o := m.(*runtimeapi.ContainerConfig).Linux.SecurityContext.NamespaceOptions
		o.Pid = runtimeapi.NamespaceMode_TARGET
	},
	"ContainerConfig.linux.security_context.seccomp.localhost_ref": func(m proto.Message) {
		m.(*runtimeapi.ContainerConfig).Linux.SecurityContext.Seccomp.ProfileType = runtimeapi.SecurityProfile_Localhost
	},
	"ContainerConfig.linux.security_context.apparmor.localhost_ref": func(m proto.Message) {
		m.(*runtimeapi.ContainerConfig).Linux.SecurityContext.Apparmor.ProfileType = runtimeapi.SecurityProfile_Localhost
	},
	"ContainerConfig.mounts.image": func(m proto.Message) {
		m.(*runtimeapi.ContainerConfig).Mounts[0].Image = &runtimeapi.ImageSpec{Image: "img"}
	},
}

// translated is what becomes of a configuration, or why nothing does. A container's is for a pod with the namespaces of
// before.
func translated(m, before proto.Message) (string, error) {
	c, ok := m.(*runtimeapi.ContainerConfig)
	if !ok {
		spec, err := sandboxSpec(m.(*runtimeapi.PodSandboxConfig))
		return show(spec), err
	}
	pod := podConfig()
	if o := before.(*runtimeapi.ContainerConfig).GetLinux().GetSecurityContext().GetNamespaceOptions(); o != nil {
		pod.Linux.SecurityContext.NamespaceOptions = proto.Clone(o).(*runtimeapi.NamespaceOption)
		pod.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	}
	sb, err := sandboxSpec(pod)
	if err != nil {
		return "", err
	}
	spec, err := containerSpec(c)
	if err == nil {
		err = agree(sb, spec, c)
	}
	return show(spec), err
}

// A field that is used makes a difference to what is made of a configuration, an ignored one makes none, and a refused one
// is an error.
func TestFieldsMakeADifference(t *testing.T) {
	table := readFields(t)
	for _, base := range []proto.Message{podConfig(), containerConfig()} {
		md := base.ProtoReflect().Descriptor()
		leaves(md, func(path []protoreflect.FieldDescriptor) {
			full := string(md.Name()) + "." + name(path)
			before := proto.Clone(base)
			parents(before.ProtoReflect(), path)
			for p, f := range with {
				if full == p || strings.HasPrefix(full, p+".") {
					f(before)
				}
			}
			after := proto.Clone(before)
			if !set(after.ProtoReflect(), path, otherValue(path[len(path)-1])) {
				t.Fatalf("%s can't be set", full)
			}
			was, wasErr := translated(before, before)
			is, isErr := translated(after, before)
			same := was == is && fmt.Sprint(wasErr) == fmt.Sprint(isErr)
			switch what := table.find(full).what; {
			case what == "refused" && isErr == nil:
				t.Errorf("%s is said to be refused, and is not", full)
			case (what == "used" || what == "kept") && same:
				t.Errorf("%s is said to be %s, and makes no difference: %s, %v", full, what, is, isErr)
			case what == "ignored" && !same:
				t.Errorf("%s is said to be ignored, and makes a difference:\n%s, %v\n%s, %v", full, was, wasErr, is, isErr)
			}
		})
	}
}

// show writes what is behind pointers, too.
func show(v any) string { return fmt.Sprintf("%+v", flat(reflect.ValueOf(v))) }

func flat(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return flat(v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out[v.Type().Field(i).Name] = flat(v.Field(i))
			}
		}
		return out
	case reflect.Slice:
		var out []any
		for i := range v.Len() {
			out = append(out, flat(v.Index(i)))
		}
		return out
	}
	return v.Interface()
}

// parents makes the messages that a field is in.
func parents(m protoreflect.Message, path []protoreflect.FieldDescriptor) {
	if len(path) == 1 {
		return
	}
	fd := path[0]
	if !fd.IsList() {
		parents(m.Mutable(fd).Message(), path[1:])
		return
	}
	l := m.Mutable(fd).List()
	if l.Len() == 0 {
		l.AppendMutable()
	}
	parents(l.Get(0).Message(), path[1:])
}

// otherValue is one that no field has by itself.
func otherValue(fd protoreflect.FieldDescriptor) any {
	if fd.IsMap() {
		return [2]string{"k", "v"}
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		return "/else"
	case protoreflect.BytesKind:
		return []byte("else")
	case protoreflect.BoolKind:
		return true
	case protoreflect.EnumKind:
		return fd.Enum().Values().Get(fd.Enum().Values().Len() - 1).Number()
	case protoreflect.Int32Kind:
		return int32(3)
	case protoreflect.Int64Kind:
		return int64(3)
	case protoreflect.Uint32Kind:
		return uint32(3)
	}
	return uint64(3)
}
