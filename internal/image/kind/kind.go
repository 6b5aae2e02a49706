// Package kind makes errors that read as one sentence and still tell a caller what kind they are of: the
// kind is found by errors.Is and does not stand in the text.
package kind

import "fmt"

type failure struct{ kind, err error }

// Errorf is fmt.Errorf with a kind.
func Errorf(kind error, format string, args ...any) error {
	return &failure{kind, fmt.Errorf(format, args...)}
}

// Of gives an error a kind.
func Of(kind, err error) error { return &failure{kind, err} }

// Error implements error.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap gives both to errors.Is.
func (f *failure) Unwrap() []error { return []error{f.kind, f.err} }
