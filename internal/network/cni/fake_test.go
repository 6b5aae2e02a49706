package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/network/nettest"
)

// This test's binary is also a plugin, if it is called fake or liar, and a daemon that is to be killed.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == "fake" || name == "second" {
		os.Exit(fakePlugin())
	}
	var cfg Config
	if nettest.Job(&cfg) {
		os.Exit(child(cfg))
	}
	os.Exit(nettest.Run(m))
}

// fakeConf is the part of a configuration that the fake reads.
type fakeConf struct {
	Type string `json:"type"`
	// Folder is where it looks for what to do (a file for each command, by the plugin's type) and keeps its log.
	Folder     string          `json:"folder"`
	PrevResult json.RawMessage `json:"prevResult"`
}

// call is a line of the fake's log.
type call struct {
	Plugin, Command, ID, NetNS, Args string
	Conf                             map[string]any
}

const goodResult = `{"cniVersion":"1.1.0","interfaces":[{"name":"br"},{"name":"eth0","sandbox":"/n","mac":"0a:00:00:00:00:01"}],
	"ips":[{"address":"fd99::5/64","interface":1},{"address":"10.99.0.5/24","gateway":"10.99.0.1","interface":1}]}`

// resultFor is goodResult for sandbox "a", and for each other one with addresses of its own.
func resultFor(id string) string {
	if id == "a" {
		return goodResult
	}
	h := fnv.New32a()
	io.WriteString(h, id)
	n := h.Sum32()
	return strings.NewReplacer("fd99::5/64", fmt.Sprintf("fd99::1:%x:%x/64", n>>16, n&0xffff), "10.99.0.5/24", fmt.Sprintf("10.%d.%d.%d/8", 100+n>>16%100, n>>8&0xff, n&0xff)).Replace(goodResult)
}

func fakePlugin() int {
	signal.Ignore(syscall.SIGPIPE) // the daemon may be dead
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 3
	}
	var conf fakeConf
	if err := json.Unmarshal(in, &conf); err != nil {
		return 3
	}
	command := os.Getenv("CNI_COMMAND")
	c := call{Plugin: conf.Type, Command: command, ID: os.Getenv("CNI_CONTAINERID"), NetNS: os.Getenv("CNI_NETNS"), Args: os.Getenv("CNI_ARGS")}
	json.Unmarshal(in, &c.Conf)
	if write(conf.Folder, c) != nil {
		return 3
	}
	do, _ := os.ReadFile(filepath.Join(conf.Folder, conf.Type+"."+command))
	code := behave(string(do), command, c.ID, conf)
	// What it has of a sandbox: from ADD, however that ends, to a DEL that ends well.
	has := filepath.Join(conf.Folder, "has-"+conf.Type+"-"+c.ID)
	switch {
	case command == "ADD":
		os.WriteFile(has, nil, 0o600)
		c.Command = "end of ADD"
		write(conf.Folder, c)
	case command == "DEL" && code == 0:
		os.Remove(has)
	}
	return code
}

// write adds a line to the fake's log.
func write(folder string, c call) error {
	line, _ := json.Marshal(c)
	log, err := os.OpenFile(filepath.Join(folder, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = log.Write(append(line, '\n'))
	return errors.Join(err, log.Close())
}

func behave(do, command, id string, conf fakeConf) int {
	switch do {
	case "hang":
		time.Sleep(time.Hour)
	case "hang in a child": // which has the plugin's output open
		cmd := exec.Command("sleep", "3600")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if cmd.Start() != nil {
			return 3
		}
		cmd.Wait()
	case "wait for a file":
		for range 6000 {
			if _, err := os.Stat(filepath.Join(conf.Folder, "go on")); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Print(resultFor(id))
	case "fail":
		fmt.Print(`{"cniVersion":"1.1.0","code":11,"msg":"try later","details":"the switch is asleep"}`)
		return 1
	case "die":
		fmt.Fprintln(os.Stderr, "no such switch")
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Hour)
	case "flood":
		junk := strings.Repeat(" ", 1<<16)
		for {
			if _, err := fmt.Print(junk); err != nil {
				return 1
			}
		}
	case "":
		if command == "ADD" {
			if len(conf.PrevResult) > 0 {
				fmt.Print(string(conf.PrevResult))
			} else {
				fmt.Print(resultFor(id))
			}
		}
	default:
		fmt.Print(do)
	}
	return 0
}
