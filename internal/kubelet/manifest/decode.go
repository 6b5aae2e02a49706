package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
	yamlv2 "sigs.k8s.io/yaml/goyaml.v2"
)

// MaxSize is the largest manifest, in bytes.
const MaxSize = 4 << 20

// Manifest is what a manifest holds, defaults set and everything checked.
type Manifest struct {
	Pods       []*v1.Pod
	ConfigMaps []*v1.ConfigMap
	Secrets    []*v1.Secret
}

// Errors is everything that is wrong with a manifest, in the order of its documents.
type Errors []error

// Error has one line for each thing that is wrong.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.Is and errors.As see each of them.
func (e Errors) Unwrap() []error { return e }

// Read is Parse for a reader. It reads no more than MaxSize+1 bytes.
func Read(r io.Reader) (*Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	return Parse(data)
}

// Parse decodes, defaults and checks a manifest. An error is an Errors, save where the bytes are no
// manifest at all.
func Parse(data []byte) (*Manifest, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("the manifest is larger than %d MiB", MaxSize>>20)
	}
	var p parser
	docs, err := split(data)
	if err != nil {
		return nil, err
	}
	for i, doc := range docs {
		p.document(fmt.Sprintf("document %d", i+1), doc, true)
	}
	if len(p.errs) > 0 {
		return nil, p.errs
	}
	if len(p.m.Pods)+len(p.m.ConfigMaps)+len(p.m.Secrets) == 0 {
		return nil, errors.New("the manifest is empty: it should hold at least one v1 Pod")
	}
	for _, pod := range p.m.Pods {
		SetDefaults(pod)
	}
	for _, cm := range p.m.ConfigMaps {
		setDefault(&cm.Namespace, "default")
	}
	for _, s := range p.m.Secrets {
		setSecretDefaults(s)
	}
	if errs := Validate(&p.m); len(errs) > 0 {
		return nil, errs
	}
	return &p.m, nil
}

// split cuts a stream into documents. A stream that begins with a brace is JSON values one after the
// other, anything else YAML with "---" lines.
func split(data []byte) ([][]byte, error) {
	var docs [][]byte
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		if docs, err := splitJSON(trimmed); err == nil {
			return docs, nil
		} // a YAML flow mapping looks like JSON; let YAML say what is wrong with it
	}
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("split the manifest into documents: %w", err)
		}
		docs = append(docs, doc)
	}
}

func splitJSON(data []byte) ([][]byte, error) {
	var docs [][]byte
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		docs = append(docs, raw)
	}
}

type parser struct {
	m    Manifest
	errs Errors
}

func (p *parser) fail(where, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(where+": "+format, args...))
}

// document takes one document. Lists are opened once: a list in a list is an error.
func (p *parser) document(where string, doc []byte, listAllowed bool) {
	asJSON, empty, err := toJSON(doc)
	if err != nil {
		p.errs = append(p.errs, prefixed(where, err)...)
		return
	}
	if empty {
		return
	}
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(asJSON, &head); err != nil {
		p.fail(where, "it is no Kubernetes object: %v", err)
		return
	}
	if head.Metadata.Name != "" {
		where = fmt.Sprintf("%s %q", strings.ToLower(head.Kind), head.Metadata.Name)
	}
	switch gvk := head.APIVersion + " " + head.Kind; {
	case gvk == "v1 Pod":
		take(p, where, asJSON, &p.m.Pods)
	case gvk == "v1 ConfigMap":
		take(p, where, asJSON, &p.m.ConfigMaps)
	case gvk == "v1 Secret":
		take(p, where, asJSON, &p.m.Secrets)
	case gvk == "v1 List" && listAllowed:
		p.list(where, asJSON)
	case head.Kind == "" || head.APIVersion == "":
		p.fail(where, "apiVersion and kind are needed, such as \"apiVersion: v1\" and \"kind: Pod\"")
	default:
		p.fail(where, "%s %s is not something that a node runs; it takes v1 Pod, ConfigMap and Secret documents",
			head.APIVersion, head.Kind)
	}
}

// list opens a v1 List.
func (p *parser) list(where string, asJSON []byte) {
	var list struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ListMeta        `json:"metadata"`
		Items           []runtime.RawExtension `json:"items"`
	}
	if !p.strict(where, asJSON, &list) {
		return
	}
	for i, item := range list.Items {
		p.document(fmt.Sprintf("%s: items[%d]", where, i), item.Raw, false)
	}
}

// take decodes one object strictly, sees that Berth does all that it asks, and appends it.
func take[T v1.Pod | v1.ConfigMap | v1.Secret](p *parser, where string, asJSON []byte, to *[]*T) {
	obj := new(T)
	if !p.strict(where, asJSON, obj) {
		return
	}
	p.errs = append(p.errs, prefixed(where, unsupported(obj)...)...)
	*to = append(*to, obj)
}

// strict decodes asJSON into v and records what is wrong with it.
func (p *parser) strict(where string, asJSON []byte, v any) bool {
	if errs := badQuantities(asJSON); len(errs) > 0 {
		p.errs = append(p.errs, prefixed(where, errs...)...)
		return false
	}
	strictErrs, err := sigsjson.UnmarshalStrict(asJSON, v)
	if err != nil {
		p.fail(where, "%s", strings.TrimPrefix(err.Error(), "json: "))
		return false
	}
	p.errs = append(p.errs, prefixed(where, strictErrs...)...)
	return len(strictErrs) == 0
}

// toJSON converts one YAML or JSON document; empty tells that there is nothing but comments in it.
func toJSON(doc []byte) (asJSON []byte, empty bool, err error) {
	if trimmed := bytes.TrimSpace(doc); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed) {
		return trimmed, false, nil // the strict decoder finds its duplicate keys
	}
	var tree yamlv2.MapSlice
	if err := yamlv2.Unmarshal(doc, &tree); err != nil {
		return nil, false, yamlError(err)
	}
	if dups := duplicates("", tree); len(dups) > 0 {
		return nil, false, dups
	}
	asJSON, err = yaml.YAMLToJSON(doc)
	if err != nil {
		return nil, false, yamlError(err)
	}
	return asJSON, bytes.Equal(asJSON, []byte("null")), nil
}

// yamlError makes one line of a YAML library's error.
func yamlError(err error) error {
	return errors.New("it is not YAML: " + strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "yaml: ", "")), " "))
}

// duplicates finds keys that one mapping holds twice, by path.
func duplicates(path string, node any) (errs Errors) {
	switch node := node.(type) {
	case yamlv2.MapSlice:
		seen := map[any]bool{}
		for _, item := range node {
			at := join(path, fmt.Sprint(item.Key))
			if k, ok := item.Key.(string); ok {
				if seen[k] {
					errs = append(errs, fmt.Errorf("duplicate field %q", at))
				}
				seen[k] = true
			}
			errs = append(errs, duplicates(at, item.Value)...)
		}
	case []any:
		for i, v := range node {
			errs = append(errs, duplicates(fmt.Sprintf("%s[%d]", path, i), v)...)
		}
	}
	return errs
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// prefixed puts where in front of each error; an Errors among them is opened.
func prefixed(where string, errs ...error) Errors {
	var out Errors
	for _, err := range errs {
		var many Errors
		if errors.As(err, &many) {
			out = append(out, prefixed(where, many...)...)
			continue
		}
		out = append(out, fmt.Errorf("%s: %w", where, err))
	}
	return out
}
