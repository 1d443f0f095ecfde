package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A noun is a kind of object and its calls, so that every noun's verbs behave
// alike.
type noun[T any] struct {
	name  string // "attachment"
	id    string // what its id is called in help: "ID", or "NETWORK" for a gateway
	view  view[T]
	get   func(ctx context.Context, r remote, id string) (T, error)
	list  func(ctx context.Context, r remote) ([]T, error)
	keyOf func(T) string
}

func (n noun[T]) show(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "show " + n.id,
		Short:             "Show one " + n.name,
		Args:              oneArg(n.id),
		ValidArgsFunction: n.complete(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), task{doing: "show " + n.name + " " + args[0]}, func(ctx context.Context, r remote) error {
				item, err := n.get(ctx, r, args[0])
				if err != nil {
					return err
				}
				return printOne(c, n.view, item)
			})
		},
	}
}

func (n noun[T]) all(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "list",
		Short:             "List every " + n.name,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), task{doing: "list " + n.name + "s"}, func(ctx context.Context, r remote) error {
				items, err := n.list(ctx, r)
				if err != nil {
					return err
				}
				return printAll(c, n.view, items)
			})
		},
	}
}

// remove is the verb delete; what is not there is deleted.
func (n noun[T]) remove(c *cli, del func(ctx context.Context, r remote, id string) error) *cobra.Command {
	return &cobra.Command{
		Use:               "delete ID...",
		Short:             "Delete, and wait until nothing of it is left on the host",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: n.complete(c, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, id := range args {
				err := c.with(cmd.Context(), task{doing: "delete " + n.name + " " + id}, func(ctx context.Context, r remote) error {
					return del(ctx, r, id)
				})
				if err != nil {
					return err
				}
				c.say("%s %s deleted", n.name, id)
			}
			return nil
		},
	}
}

// A creation is what create needs to know of one object.
type creation[T any] struct {
	id     string
	noWait bool
	put    func(ctx context.Context, r remote) (T, error)
}

const noWaitTime = 2 * time.Second

// create puts and prints the object.
func (n noun[T]) create(ctx context.Context, c *cli, o creation[T]) error {
	t := task{
		doing:  fmt.Sprintf("create %s %s", n.name, o.id),
		giveUp: fmt.Sprintf("causeway %s delete %s", n.name, o.id),
	}
	return c.with(ctx, t, func(ctx context.Context, r remote) error { return n.putAndPrint(ctx, c, r, o) })
}

// putAndPrint waits for the object. With --no-wait the agent gets the time to
// write the intent down, and then the object is shown as far as it has come.
func (n noun[T]) putAndPrint(ctx context.Context, c *cli, r remote, o creation[T]) error {
	putting := ctx
	if o.noWait {
		var cancel context.CancelFunc
		putting, cancel = context.WithTimeout(ctx, min(noWaitTime, c.timeout/2))
		defer cancel()
	}
	item, err := o.put(putting, r)
	if o.noWait && status.Code(err) == codes.DeadlineExceeded {
		// Taken, if it is there: the answer tells which.
		item, err = n.get(ctx, r, o.id)
	}
	if err != nil {
		return err
	}
	return printOne(c, n.view, item)
}

// complete offers ids for up to limit arguments; -1 is any number.
func (n noun[T]) complete(c *cli, limit int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if limit >= 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return n.ids(cmd.Context(), c), cobra.ShellCompDirectiveNoFileComp
	}
}

const completionTime = time.Second

// ids for completion: none where the agent does not answer at once, and none
// that a shell might read as anything but a word.
func (n noun[T]) ids(ctx context.Context, c *cli) []string {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	var ids []string
	_ = c.with(ctx, task{doing: "complete"}, func(ctx context.Context, r remote) error {
		items, err := n.list(ctx, r)
		for _, item := range items {
			if id := n.keyOf(item); plainWord(id) {
				ids = append(ids, id)
			}
		}
		return err
	})
	return ids
}

func plainWord(s string) bool {
	for _, b := range []byte(s) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '.', b == '_', b == '-':
		default:
			return false
		}
	}
	return s != ""
}
