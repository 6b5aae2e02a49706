package demo

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<title>{{.Pod}}</title>
<h1>Hello from {{.Pod}}</h1>
<p>An init container wrote this page at {{.At}} on {{.Host}}.</p>
<p>A web server serves it, and a second container reads it from the same emptyDir.</p>
`))

// WritePage writes the example's page to path, by way of a new file and a rename, so that no reader
// sees half of it. pod is the name that the page greets with.
func WritePage(path, pod string, now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("write page %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".page-*")
	if err != nil {
		return fmt.Errorf("write page %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // gone already after the rename
	err = page.Execute(f, map[string]string{"Pod": pod, "Host": host, "At": now.UTC().Format(time.RFC3339Nano)})
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write page %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

// Serve serves the files of dir over HTTP on address until ctx ends, then finishes the requests in
// flight, for a second at most. It writes a line for each request to log.
func Serve(ctx context.Context, address, dir string, log io.Writer) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve %s: %w", dir, err)
	}
	fmt.Fprintf(log, "serving %s on %s\n", dir, l.Addr())
	files := http.FileServer(http.Dir(dir))
	srv := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(log, "%s %s from %s (%s)\n", r.Method, r.URL.Path, r.RemoteAddr, r.UserAgent())
			files.ServeHTTP(w, r)
		}),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", dir, err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err = srv.Shutdown(stop)
	<-failed
	fmt.Fprintln(log, "asked to end: good-bye")
	return err
}

// Watch prints the size of the file at path, and again each time that it changes, until ctx ends.
func Watch(ctx context.Context, path string, every time.Duration, out io.Writer) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for {
		now := "not there yet"
		if st, err := os.Stat(path); err == nil {
			now = fmt.Sprintf("%d bytes, written %s", st.Size(), st.ModTime().UTC().Format(time.RFC3339))
		}
		if now != last {
			fmt.Fprintf(out, "%s: %s\n", path, now)
			last = now
		}
		select {
		case <-ctx.Done():
			fmt.Fprintln(out, "asked to end: good-bye")
			return nil
		case <-tick.C:
		}
	}
}
