package test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/dependencies.md has a row for each direct dependency, and none for what is none.
func TestEveryDependencyHasItsReason(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	direct := map[string]bool{}
	for _, line := range strings.Split(string(mod), "\n") {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(line, "\t") {
			direct[f[0]] = true
		}
	}
	table, _, _ := strings.Cut(string(doc), "## Tools")
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		documented[m[1]] = true
	}
	for d := range direct {
		if !documented[d] {
			t.Errorf("go.mod needs %s, and docs/dependencies.md does not say why", d)
		}
	}
	for d := range documented {
		if !direct[d] {
			t.Errorf("docs/dependencies.md speaks of %s, which go.mod does not need", d)
		}
	}
}

// What the documents point to is there.
func TestLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	for _, doc := range []string{"README.md", "CONTRIBUTING.md", "SPECIFICATION.md", "docs/architecture.md", "docs/debugging.md", "docs/operating.md", "docs/networks.md", "packaging/README.md", "docs/dependencies.md", "docs/decisions/README.md"} {
		b, err := os.ReadFile("../" + doc)
		if err != nil {
			t.Error(err)
			continue
		}
		dir := doc[:strings.LastIndex(doc, "/")+1]
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat("../" + dir + m[1]); err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
	}
}
