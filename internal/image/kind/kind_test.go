package kind

import (
	"errors"
	"io"
	"testing"
)

func TestErrorf(t *testing.T) {
	sort := errors.New("a kind")
	err := Errorf(sort, "read it: %w", io.EOF)
	if err.Error() != "read it: EOF" || !errors.Is(err, sort) || !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := Of(sort, io.EOF); err.Error() != "EOF" || !errors.Is(err, sort) {
		t.Error(err)
	}
}
