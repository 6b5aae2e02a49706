package systemdtest

import (
	"bufio"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"

	godbus "github.com/godbus/dbus/v5"
)

// property and unit are what StartTransientUnit takes.
type property struct {
	Name  string
	Value godbus.Variant
}

type unit struct {
	Name       string
	Properties []property
}

// methods are the Manager's on the bus (org.freedesktop.systemd1(5)).
type methods struct{ m *Manager }

func (o methods) StartTransientUnit(name, mode string, properties []property, _ []unit) (godbus.ObjectPath, *godbus.Error) {
	m := o.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.units[name] != nil || m.failed[name] {
		return "", godbus.NewError(errPrefix+"UnitExists", []any{"Unit " + name + " already exists."})
	}
	p := map[string]any{}
	for _, e := range properties {
		p[e.Name] = e.Value.Value()
	}
	if err := m.start(name, p); err != nil {
		return "", godbus.MakeFailedError(err)
	}
	m.units[name] = p
	return m.job(name), nil
}

func (o methods) StopUnit(name, mode string) (godbus.ObjectPath, *godbus.Error) {
	m := o.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.units[name] == nil {
		return "", noSuchUnit(name)
	}
	if err := m.stop(name); err != nil {
		return "", godbus.MakeFailedError(err)
	}
	return m.job(name), nil
}

func (o methods) ResetFailedUnit(name string) *godbus.Error {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	if !o.m.failed[name] {
		return noSuchUnit(name)
	}
	delete(o.m.failed, name)
	return nil
}

func (o methods) SetUnitProperties(name string, runtime bool, properties []property) *godbus.Error {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	if o.m.units[name] == nil {
		return noSuchUnit(name)
	}
	for _, e := range properties {
		o.m.units[name][e.Name] = e.Value.Value()
	}
	return nil
}

func noSuchUnit(name string) *godbus.Error {
	return godbus.NewError(errPrefix+"NoSuchUnit", []any{"Unit " + name + " not loaded."})
}

// bus is what each client asks of the bus itself.
type bus struct{}

func (bus) Hello() (string, *godbus.Error)   { return ":1.1", nil }
func (bus) AddMatch(string) *godbus.Error    { return nil }
func (bus) RemoveMatch(string) *godbus.Error { return nil }

// listen serves m on a socket in dir.
func listen(dir string, m *Manager) (address string, stop func(), err error) {
	path := filepath.Join(dir, "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", nil, err
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(c, m) })
		}
	})
	return "unix:path=" + path, func() {
		l.Close()
		m.Disconnect()
		serving.Wait()
	}, nil
}

// serve connects a client with m: each shakes hands as with a bus, then they hear each other.
func serve(client net.Conn, m *Manager) {
	defer client.Close()
	near, far := net.Pipe()
	defer far.Close()
	ready := make(chan *bufio.Reader, 1)
	go func() { ready <- welcome(far) }()
	ours, err := godbus.NewConn(near)
	if err != nil {
		return
	}
	defer ours.Close()
	if ours.Auth([]godbus.Auth{godbus.AuthExternal("0")}) != nil ||
		ours.Export(methods{m}, managerPath, managerName) != nil ||
		ours.Export(bus{}, "/org/freedesktop/DBus", "org.freedesktop.DBus") != nil {
		return
	}
	fromOurs, fromClient := <-ready, welcome(client)
	m.mu.Lock()
	m.conns[ours] = true
	m.mu.Unlock()
	go func() {
		io.Copy(client, fromOurs)
		client.Close()
	}()
	io.Copy(far, fromClient)
	m.mu.Lock()
	delete(m.conns, ours)
	m.mu.Unlock()
}

// welcome is the bus's part of the handshake (D-Bus specification, Authentication Protocol).
func welcome(c net.Conn) *bufio.Reader {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return r
		}
		switch line = strings.Trim(line, "\x00\r\n"); {
		case line == "AUTH":
			io.WriteString(c, "REJECTED EXTERNAL\r\n")
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			io.WriteString(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case line == "BEGIN":
			return r
		default:
			io.WriteString(c, "ERROR\r\n")
		}
	}
}
