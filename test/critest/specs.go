package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// spec is how one ended: "passed", "skipped", or anything else for failed.
type spec struct {
	Name, State, Message string
	Seconds              float64
}

// report is the part of ginkgo's JSON report that is used.
type report []struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		RunTime                 int64 // nanoseconds
		Failure                 struct{ Message string }
	}
}

// runSpecs runs critest. Its exit code counts for nothing: the report tells more.
func (s *suite) runSpecs(ctx context.Context, endpoint string) ([]spec, error) {
	out := filepath.Join(s.dir, "report.json")
	os.Remove(out)
	args := []string{
		"-runtime-endpoint", endpoint, "-image-endpoint", endpoint, "-config", "/dev/null",
		"-ginkgo.json-report", out, "-ginkgo.no-color", "-test.timeout", "40m",
	}
	if s.o.parallel > 1 { // ginkgo refuses to see this flag otherwise
		args = append(args, "-parallel", strconv.Itoa(s.o.parallel))
	}
	if s.o.websocket {
		args = append(args, "-websocket-exec", "-websocket-attach", "-websocket-portforward")
	}
	if s.o.focus != "" {
		args = append(args, "-ginkgo.focus", s.o.focus)
	}
	cmd := exec.CommandContext(ctx, s.critest, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(s.critest)+":"+os.Getenv("PATH"), "TMPDIR="+s.dir) // it leaves what it makes
	logFile, err := os.Create(filepath.Join(s.o.cache, "critest.log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if s.o.verbose {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	}
	rerr := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	specs, err := readReport(out)
	if err != nil {
		return nil, fmt.Errorf("critest (%v) left no report, see %s: %w", rerr, logFile.Name(), err)
	}
	return specs, nil
}

func readReport(path string) ([]spec, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var out []spec
	for _, suite := range r {
		for _, sr := range suite.SpecReports {
			if sr.LeafNodeType != "It" && sr.State == "passed" {
				continue // the suite's own set-up
			}
			name := strings.Join(append(sr.ContainerHierarchyTexts, sr.LeafNodeText), " ")
			out = append(out, spec{Name: name, State: sr.State, Message: sr.Failure.Message, Seconds: float64(sr.RunTime) / 1e9})
		}
	}
	return out, nil
}
