package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// TestMain is the mirror itself where a test starts this program as one.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_MIRROR") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestCtrlCIsNoErrorBeforeTheFirstPosition(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no process can send Ctrl-C to another one")
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	mirror := exec.Command(os.Args[0], "main/documents", filepath.Join(t.TempDir(), "mirror.json"))
	mirror.Env = append(os.Environ(), "TEST_AS_MIRROR=1", "CHANGEFEED_TARGET="+silent.Addr().String())
	var said bytes.Buffer
	mirror.Stdout, mirror.Stderr = &said, &said
	if err := mirror.Start(); err != nil {
		t.Fatal(err)
	}
	connection, err := silent.Accept() // It asks what the collection can do.
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if err := mirror.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := mirror.Wait(); err != nil || said.Len() > 0 {
		t.Errorf("%v: %s", err, &said)
	}
}
