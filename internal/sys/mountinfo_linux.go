package sys

import "strings"

// MountPath undoes the octal escapes of space, tab, newline and backslash in a field of /proc/PID/mountinfo (proc(5)).
func MountPath(field string) string {
	if !strings.Contains(field, `\`) { // nearly always: a replacer costs tables
		return field
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}
