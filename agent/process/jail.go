package process

import "errors"

// enter makes r the root of this thread.
func (r *Root) enter() error {
	return errors.New("not supported")
}
