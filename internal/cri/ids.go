package cri

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// idLength is the length of a whole ID.
const idLength = 64

// resolve completes a short ID. An ID that begins none of the others is returned as it is.
func resolve(id string, all func(yield func(id string) bool)) (string, error) {
	if len(id) >= idLength || id == "" {
		return id, nil
	}
	found := ""
	for full := range all {
		if !strings.HasPrefix(full, id) {
			continue
		}
		if found != "" {
			return "", status.Errorf(codes.InvalidArgument, "id %q is short for more than one", id)
		}
		found = full
	}
	if found == "" {
		return id, nil
	}
	return found, nil
}

func (s *Server) containerID(id string) (string, error) {
	return resolve(id, func(yield func(string) bool) {
		for _, c := range s.rt.Containers("") {
			if !yield(c.ID) {
				return
			}
		}
	})
}

func (s *Server) sandboxID(id string) (string, error) {
	return resolve(id, func(yield func(string) bool) {
		for _, sb := range s.rt.Sandboxes() {
			if !yield(sb.ID) {
				return
			}
		}
	})
}

// matches tells whether all labels of the selector are there.
func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
