package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
)

// missing says what a driver lacks.
type missing string

func (m missing) Error() string { return string(m) }

type check struct {
	name string
	run  func()
}

// report runs checks, which panic when something is wrong, and prints what became of each.
func report(checks []check) {
	failed := false
	for _, c := range checks {
		func() {
			defer func() {
				problem := recover()
				var lacks missing
				err, _ := problem.(error)
				switch {
				case problem == nil:
					fmt.Println("ok", c.name)
				case errors.As(err, &lacks):
					fmt.Println("none", c.name, lacks)
				default:
					failed = true
					fmt.Fprintf(os.Stderr, "%s: %v\n%s\n", c.name, problem, debug.Stack())
					fmt.Println("FAILED", c.name)
				}
			}()
			c.run()
		}()
	}
	if failed {
		os.Exit(1)
	}
}

// must gives the value, or panics with the error.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}

func equal(found, wanted any) {
	if fmt.Sprint(found) != fmt.Sprint(wanted) {
		panic(fmt.Errorf("%v, not %v", found, wanted))
	}
}
