package manifest

import (
	"encoding/json"
	"fmt"
	"sort"

	"k8s.io/apimachinery/pkg/api/resource"
)

// badQuantities finds resource quantities that do not parse. The decoder would reject them too, but without
// saying where they are.
func badQuantities(asJSON []byte) []error {
	var tree any
	if err := json.Unmarshal(asJSON, &tree); err != nil {
		return nil // the decoder says it better
	}
	return walkQuantities("", "", tree)
}

func walkQuantities(path, key string, node any) (errs []error) {
	switch node := node.(type) {
	case map[string]any:
		for _, k := range sortedKeys(node) {
			at := join(path, k)
			if key == "limits" || key == "requests" || k == "sizeLimit" || k == "divisor" {
				errs = append(errs, checkQuantity(at, node[k])...)
				continue
			}
			errs = append(errs, walkQuantities(at, k, node[k])...)
		}
	case []any:
		for i, v := range node {
			errs = append(errs, walkQuantities(fmt.Sprintf("%s[%d]", path, i), "", v)...)
		}
	}
	return errs
}

func checkQuantity(path string, v any) []error {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case float64:
		return nil
	case nil:
		return nil
	default:
		return []error{fmt.Errorf("%s: it must be a quantity, such as 500m or 64Mi", path)}
	}
	if _, err := resource.ParseQuantity(s); err != nil {
		return []error{fmt.Errorf("%s: %q is not a quantity, such as 500m or 64Mi", path, s)}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
