package main

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// pictured is what the picture shows of a table.
var pictured = []string{"pod start", "ExecSync", "stop + remove"}

const (
	svgWidth  = 760 // pixels
	svgNames  = 150 // of a bar's label
	svgBar    = 16  // a bar's height, and
	svgGap    = 4   // what is between two
	svgValues = 90  // of what stands behind the longest bar
)

var svgColours = map[string]string{"berth": "#0b7285", floorName: "#adb5bd"}

// writeSVG draws the medians as bars, each group on a scale of its own.
func writeSVG(w io.Writer, rows []row) error {
	var b strings.Builder
	y := 10
	for _, network := range distinct(rows, func(r row) string { return r.Network }) {
		for _, n := range distinct(rows, func(r row) int { return r.AtOnce }) {
			for _, what := range pictured {
				var group []row
				longest := 0.0
				for _, r := range rows {
					if r.Network == network && r.AtOnce == n && r.What == what {
						group = append(group, r)
						longest = max(longest, r.P50)
					}
				}
				if len(group) == 0 {
					continue
				}
				y += 22
				fmt.Fprintf(&b, `<text x="0" y="%d" class="title">%s, %s</text>`+"\n", y, html.EscapeString(what), html.EscapeString(circumstances(network, n)))
				y += 8
				for _, r := range group {
					width := float64(svgWidth-svgNames-svgValues) * r.P50 / longest
					colour := svgColours[r.Runtime]
					if colour == "" {
						colour = "#e8590c"
					}
					fmt.Fprintf(&b, `<text x="%d" y="%d" class="name">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%s</text>`+"\n",
						svgNames-8, y+svgBar-4, html.EscapeString(r.Runtime), svgNames, y, max(width, 1), svgBar, colour,
						float64(svgNames)+width+6, y+svgBar-4, milliseconds(r.P50))
					y += svgBar + svgGap
				}
			}
		}
	}
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<style>text{fill:#212529}.title{font-weight:bold}.name{text-anchor:end}@media(prefers-color-scheme:dark){text{fill:#e9ecef}}</style>
%s</svg>
`, svgWidth, y+10, svgWidth, y+10, b.String())
	return err
}

func circumstances(network string, n int) string {
	of := "the host's network"
	if network != "host" {
		of = "a bridge"
	}
	if n == 1 {
		return "one at a time, " + of + " (median)"
	}
	return fmt.Sprintf("%d at once, %s (median)", n, of)
}

func milliseconds(ms float64) string {
	switch {
	case ms >= 1000:
		return fmt.Sprintf("%.1f s", ms/1000)
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f ms", ms)
}

// distinct are the values of f in the order in which they come.
func distinct[V comparable](rows []row, f func(row) V) []V {
	var out []V
	seen := map[V]bool{}
	for _, r := range rows {
		if v := f(r); !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}
