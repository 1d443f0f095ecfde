package recipe

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/causeway-project/causeway/integration/golden"
)

func TestCloudConfig(t *testing.T) {
	got, err := CloudConfig([]Mount{{Tag: "docs", Path: "/mnt/the-docs"}, {Tag: "music", ReadOnly: true}})
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "cloud-config.yaml", got)
}

// TestCloudConfigIsValid reads it as YAML, and asks cloud-init where it is
// installed: to install it for tests would have it configure the machine.
func TestCloudConfigIsValid(t *testing.T) {
	mounts := []Mount{{Tag: "docs", Path: "/mnt/the-docs"}, {Tag: "music", ReadOnly: true}}
	text, err := CloudConfig(mounts)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Files []struct{ Path, Permissions, Content string } `yaml:"write_files"`
		Run   [][]string                                    `yaml:"runcmd"`
	}
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	var files []File
	for _, f := range got.Files {
		files = append(files, File{f.Path, f.Content})
		if f.Permissions != "0644" {
			t.Errorf("%s has permissions %q", f.Path, f.Permissions)
		}
	}
	want, err := Files(mounts)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, files); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(commands, got.Run); d != "" {
		t.Error(d)
	}
	program, err := exec.LookPath("cloud-init")
	if err != nil {
		return
	}
	out, err := exec.CommandContext(t.Context(), program, "schema", "--config-file", "testdata/cloud-config.yaml").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Valid") {
		t.Errorf("cloud-init schema: %v\n%s", err, out)
	}
}

// TestEscape compares with systemd-escape(1).
func TestEscape(t *testing.T) {
	for path, want := range map[string]string{
		"/mnt/docs":       "mnt-docs",
		"/mnt/the-docs":   `mnt-the\x2ddocs`,
		"/.a/.b/c.d:e_f":  `\x2ea-.b-c.d:e_f`,
		"/srv/a+b,c@d":    `srv-a\x2bb\x2cc\x40d`,
		"/mnt/-/--/0-9-Z": `mnt-\x2d-\x2d\x2d-0\x2d9\x2dZ`,
	} {
		if got := escape(path); got != want {
			t.Errorf("escape(%q) = %q, want %q", path, got, want)
		}
		program, err := exec.LookPath("systemd-escape")
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(t.Context(), program, "-p", path).Output()
		if theirs := strings.TrimSpace(string(out)); err != nil || theirs != want {
			t.Errorf("systemd-escape %q = %q, %v, want %q", path, theirs, err, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, m := range []Mount{
		{Tag: ""}, {Tag: "a b"}, {Tag: "a\nb"}, {Tag: `a"`}, {Tag: "a%n"}, {Tag: "-o"}, {Tag: "a$b"}, {Tag: `a\`}, {Tag: "LABEL=x"}, {Tag: "a/b"},
		{Tag: "a", Path: "mnt"}, {Tag: "a", Path: "/"}, {Tag: "a", Path: "/a b"}, {Tag: "a", Path: "/a%i"}, {Tag: "a", Path: "/a\n"}, {Tag: "a", Path: `/a"`}, {Tag: "a", Path: "/a$b"}, {Tag: "a", Path: "/ä"},
	} {
		if got, err := CloudConfig([]Mount{m}); err == nil {
			t.Errorf("%+v: got\n%s", m, got)
		}
	}
}
