package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

const maxSecret = 64 << 10 // bytes, as the agent takes

// connectionFlags say how a share is reached.
type connectionFlags struct {
	source     string
	options    []string
	secretFile string
}

func (f *connectionFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.source, "source", "", "the share as KIND:SOURCE, for example local:docs (required)")
	cmd.Flags().StringArrayVar(&f.options, "option", nil, "an option of the driver as KEY=VALUE; may be repeated")
	cmd.Flags().StringVar(&f.secretFile, "secret-file", "", "file with the backend's secret, - for standard input; one newline at its end is dropped")
	must(cmd.MarkFlagRequired("source"))
	must(cmd.RegisterFlagCompletionFunc("source", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("option", cobra.NoFileCompletions))
}

func (f *connectionFlags) parse(stdin io.Reader) (*nodev1.Connection, error) {
	kind, source, ok := strings.Cut(f.source, ":")
	if !ok || kind == "" || source == "" {
		return nil, usage("source %q is not KIND:SOURCE; write it for example as local:docs", f.source)
	}
	c := &nodev1.Connection{BackendKind: kind, Source: source}
	for _, o := range f.options {
		k, v, ok := strings.Cut(o, "=")
		if !ok || k == "" {
			return nil, usage("option %q is not KEY=VALUE", o)
		}
		if _, twice := c.Options[k]; twice {
			return nil, usage("option %q is given twice", k)
		}
		if c.Options == nil {
			c.Options = map[string]string{}
		}
		c.Options[k] = v
	}
	var err error
	c.Secret, err = readSecret(f.secretFile, stdin)
	return c, err
}

// readSecret reads a file, because everybody on the host can see arguments.
func readSecret(path string, stdin io.Reader) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usage("read secret: %v", err)
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	secret, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return nil, usage("read secret: %v", err)
	}
	secret = bytes.TrimSuffix(secret, []byte("\n"))
	switch {
	case len(secret) == 0:
		return nil, usage("secret file %s is empty", path)
	case len(secret) > maxSecret:
		return nil, usage("secret file %s is longer than %d bytes", path, maxSecret)
	}
	return secret, nil
}

func parseRoute(s string) (*nodev1.Route, error) {
	destination, via, ok := strings.Cut(s, "=")
	if !ok || destination == "" || via == "" {
		return nil, usage("route %q is not DESTINATION=VIA; write it for example as 0.0.0.0/0=10.77.0.1", s)
	}
	return &nodev1.Route{Destination: destination, Via: via}, nil
}

const allowForm = "CLIENT=rw|ro[,squash=none|root|root_id|all][,uid=N][,gid=N][,everyone]"

// parseAllow reads a rule. Whether the client is an address is the agent's to
// say, in the same words for every caller.
func parseAllow(s string) (*nodev1.AccessRule, error) {
	client, rest, ok := strings.Cut(s, "=")
	if !ok || client == "" {
		return nil, usage("rule %q is not %s", s, allowForm)
	}
	words := strings.Split(rest, ",")
	rule := &nodev1.AccessRule{Client: client}
	var err error
	if rule.Level, err = parseLevel(words[0]); err != nil {
		return nil, usage("rule %q: %v", s, err)
	}
	seen := map[string]bool{}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		if seen[key] {
			return nil, usage("rule %q: %s is given twice", s, key)
		}
		seen[key] = true
		switch key {
		case "squash":
			rule.Squash, err = parseSquash(value)
		case "uid":
			rule.AnonymousUid, err = parseUser(value)
		case "gid":
			rule.AnonymousGid, err = parseUser(value)
		case "everyone":
			rule.AllowEveryone = true
		default:
			err = fmt.Errorf("%q is unknown; the form is %s", w, allowForm)
		}
		if err != nil {
			return nil, usage("rule %q: %v", s, err)
		}
	}
	return rule, nil
}

func parseSquash(s string) (nodev1.Squash, error) {
	switch s {
	case "none":
		return nodev1.Squash_SQUASH_NONE, nil
	case "root":
		return nodev1.Squash_SQUASH_ROOT, nil
	case "root_id":
		return nodev1.Squash_SQUASH_ROOT_ID, nil
	case "all":
		return nodev1.Squash_SQUASH_ALL, nil
	}
	return 0, fmt.Errorf("squash %q is none of none, root, root_id, all", s)
}

func parseUser(s string) (*uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%q is no user or group number", s)
	}
	id := uint32(n)
	return &id, nil
}
