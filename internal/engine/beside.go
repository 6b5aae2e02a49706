package engine

// aside is what a goroutine is making beside other work.
type aside[T any] struct {
	made  chan struct{} // closed when value or err is there
	value T
	err   error
}

func beside[T any](f func() (T, error)) *aside[T] {
	a := &aside[T]{made: make(chan struct{})}
	go func() {
		defer close(a.made)
		a.value, a.err = f()
	}()
	return a
}

func (a *aside[T]) wait() (T, error) {
	<-a.made
	return a.value, a.err
}
