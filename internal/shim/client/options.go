package client

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// Options are a foreign shim's own, as its Task service gets them with each container: a message of the type that the
// shim expects. The zero value is none.
type Options struct {
	TypeURL string `json:"type,omitempty"`
	Value   []byte `json:"value,omitempty"`
}

func (o Options) any() *anypb.Any {
	if o.TypeURL == "" {
		return nil
	}
	return &anypb.Any{TypeUrl: o.TypeURL, Value: o.Value}
}

// A BadOption is what is wrong with one option.
type BadOption struct{ Key, Problem string }

func (e *BadOption) Error() string { return e.Key + ": " + e.Problem }

// NewOptions makes the options of the shim binary from a table as containerd's configuration has it. A runc shim gets
// containerd.runc.v1.Options, and what that does not know is a *BadOption; any other gets runtimeoptions.v1.Options: with
// TypeUrl and ConfigPath from the table where those are in it, else with the table itself as ConfigBody, in TOML.
func NewOptions(binary string, table map[string]any) (Options, error) {
	if len(table) == 0 {
		return Options{}, nil
	}
	var m proto.Message
	var err error
	if isRunc(binary) {
		m, err = runcOptions(table)
	} else {
		m, err = genericOptions(table)
	}
	if err != nil {
		return Options{}, err
	}
	value, err := proto.Marshal(m)
	if err != nil {
		return Options{}, fmt.Errorf("encode options: %w", err)
	}
	// containerd's own type URLs have no prefix.
	return Options{TypeURL: string(m.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}

// WithSystemdCgroup is the table of a runc shim with the option that has its containers' cgroups made by systemd, unless
// it says something about that. Other shims know it by their own configuration, if at all.
func WithSystemdCgroup(binary string, table map[string]any) map[string]any {
	const key = "SystemdCgroup"
	if _, said := table[key]; said || !isRunc(binary) {
		return table
	}
	with := map[string]any{key: true}
	maps.Copy(with, table)
	return with
}

func isRunc(binary string) bool {
	return strings.HasPrefix(filepath.Base(binary), "containerd-shim-runc-")
}

func runcOptions(table map[string]any) (proto.Message, error) {
	o := &runcoptions.Options{}
	fields := map[string]protoreflect.FieldDescriptor{}
	list := o.ProtoReflect().Descriptor().Fields()
	for i := range list.Len() {
		// containerd's files name them as its Go code does: BinaryName for binary_name.
		name := list.Get(i).JSONName()
		fields[strings.ToUpper(name[:1])+name[1:]] = list.Get(i)
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		f := fields[key]
		if f == nil {
			return nil, &BadOption{key, "a runc shim knows only " + strings.Join(slices.Sorted(maps.Keys(fields)), ", ")}
		}
		v, ok := optionValue(f.Kind(), table[key])
		if !ok {
			return nil, &BadOption{key, fmt.Sprintf("%v is not what a runc shim takes there: it is of type %s", table[key], f.Kind())}
		}
		if name, _ := table[key].(string); key == "BinaryName" && filepath.Base(name) == "runsc" {
			return nil, &BadOption{key, "runsc has a shim of its own, containerd-shim-runsc-v1: under a runc shim a pod hangs with its second container, " +
				"for runsc gives the process of the whole sandbox as that of each"}
		}
		o.ProtoReflect().Set(f, v)
	}
	return o, nil
}

// optionValue fits a value of TOML to a field.
func optionValue(kind protoreflect.Kind, v any) (protoreflect.Value, bool) {
	switch v := v.(type) {
	case string:
		return protoreflect.ValueOfString(v), kind == protoreflect.StringKind
	case bool:
		return protoreflect.ValueOfBool(v), kind == protoreflect.BoolKind
	case int64:
		return protoreflect.ValueOfUint32(uint32(v)), kind == protoreflect.Uint32Kind && v >= 0 && v <= math.MaxUint32
	}
	return protoreflect.Value{}, false
}

func genericOptions(table map[string]any) (proto.Message, error) {
	o := &runtimeoptions.Options{}
	for key, field := range map[string]*string{"TypeUrl": &o.TypeUrl, "ConfigPath": &o.ConfigPath} {
		v, ok := table[key]
		if !ok {
			continue
		}
		if *field, ok = v.(string); !ok {
			return nil, &BadOption{key, "it takes a text in quotes"}
		}
	}
	if o.ConfigPath != "" {
		if !filepath.IsAbs(o.ConfigPath) {
			return nil, &BadOption{"ConfigPath", fmt.Sprintf("%q is no absolute path", o.ConfigPath)}
		}
		return o, nil
	}
	rest := maps.Clone(table)
	delete(rest, "TypeUrl")
	var body bytes.Buffer
	if err := toml.NewEncoder(&body).Encode(rest); err != nil {
		return nil, fmt.Errorf("encode options: %w", err)
	}
	o.ConfigBody = body.Bytes()
	return o, nil
}

// options are those that the group's shim gets with each container. What a runc shim keeps of its containers it keeps in
// the group's directory, if nothing else is said.
func (g *group) options() Options {
	o := g.rec.Options
	if !isRunc(g.rec.Binary) {
		return o
	}
	var m runcoptions.Options
	if o.TypeURL != "" && proto.Unmarshal(o.Value, &m) != nil || m.Root != "" {
		return o
	}
	m.Root = filepath.Join(g.dir, "runc")
	value, err := proto.Marshal(&m)
	if err != nil {
		return o
	}
	return Options{TypeURL: string(m.ProtoReflect().Descriptor().FullName()), Value: value}
}

// Options are what Task.Create of a foreign shim is given; nil is nothing.
func (s *Shim) Options() *anypb.Any { return s.g.options().any() }
