//go:build crashpoints

package netns

import (
	"strings"
	"syscall"
	"testing"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// A process killed at each named point leaves what the next one finishes, and
// what the next one removes.
func TestCrashPoints(t *testing.T) {
	newBridge(t, "br-blue")
	for _, point := range []crashpoint.Point{crashpoint.NetnsCreated, crashpoint.NetnsLink, crashpoint.NetnsAddressed} {
		for _, verb := range []string{"ensure", "remove"} {
			t.Run(string(point)+"/"+verb, func(t *testing.T) {
				h, n := newHost(), blue()
				cmd := child(t, "ensure")
				cmd.Env = append(cmd.Env, "CAUSEWAY_CRASH_AT="+string(point))
				_ = cmd.Run()
				if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGKILL {
					t.Fatalf("the point was not met: %v", cmd.ProcessState)
				}
				if verb == "ensure" {
					if err := h.Ensure(t.Context(), n); err != nil {
						t.Fatal(err)
					}
					healthy(t, h, n)
				}
				if err := h.Remove(t.Context(), n); err != nil {
					t.Fatal(err)
				}
				nothingLeft(t, h)
			})
		}
	}
}

// The same with every plug that another process can see the world of.
func TestPlugCrashPoints(t *testing.T) {
	for _, sc := range scenes() {
		if strings.Contains(sc.name, "tag") {
			continue // the model's table would end with the process
		}
		t.Run(sc.name, func(t *testing.T) {
			h, n := sc.build(t), sc.network()
			for _, point := range []crashpoint.Point{crashpoint.NetnsCreated, crashpoint.NetnsLink, crashpoint.NetnsAddressed} {
				for _, verb := range []string{"ensure", "remove"} {
					cmd := child(t, "ensure")
					cmd.Env = append(cmd.Env, "CAUSEWAY_CRASH_AT="+string(point), sceneEnv+"="+sc.name, ovsdbEnv+"="+h.plugs.OVS.DB)
					_ = cmd.Run()
					if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGKILL {
						t.Fatalf("%s was not met: %v", point, cmd.ProcessState)
					}
					if verb == "ensure" {
						if err := h.Ensure(t.Context(), n); err != nil {
							t.Fatalf("after %s: %v", point, err)
						}
						healthy(t, h, n)
					}
					if err := h.Remove(t.Context(), n); err != nil {
						t.Fatal(err)
					}
					nothingLeft(t, h)
				}
			}
		})
	}
}
