package lifecycle

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// ProbeKind is one of a container's three probes.
type ProbeKind string

const (
	Startup   ProbeKind = "startup"
	Readiness ProbeKind = "readiness"
	Liveness  ProbeKind = "liveness"
)

// ProbeState is what one probe of one instance has told so far.
type ProbeState struct {
	LastAt   time.Time // when the last run ended
	Success  bool      // the verdict: thresholds counted in
	Failed   bool      // failureThreshold was reached since the last success
	Ever     bool      // it has succeeded once
	InARow   int32     // equal results in a row
	LastGood bool      // the last single result
	Message  string    // of the last result
}

// ProbeStates are an instance's probes.
type ProbeStates struct {
	Startup, Readiness, Liveness ProbeState
}

// Of returns the state of one kind.
func (p *ProbeStates) Of(k ProbeKind) *ProbeState {
	switch k {
	case Startup:
		return &p.Startup
	case Liveness:
		return &p.Liveness
	}
	return &p.Readiness
}

// Record adds one result.
func (s *ProbeState) Record(p *v1.Probe, good bool, message string, at time.Time) {
	if s.InARow > 0 && s.LastGood == good {
		s.InARow++
	} else {
		s.InARow = 1
	}
	s.LastGood, s.LastAt, s.Message = good, at, message
	if good && s.InARow >= p.SuccessThreshold {
		s.Success, s.Failed, s.Ever = true, false, true
	}
	if !good && s.InARow >= p.FailureThreshold {
		s.Success, s.Failed = false, true
	}
}

func probeOf(c *v1.Container, k ProbeKind) *v1.Probe {
	switch k {
	case Startup:
		return c.StartupProbe
	case Liveness:
		return c.LivenessProbe
	}
	return c.ReadinessProbe
}

// ProbeOf returns the container's probe of that kind, or nil.
func ProbeOf(c *v1.Container, k ProbeKind) *v1.Probe { return probeOf(c, k) }

// state returns what a probe of an instance has told; never nil.
func (o *Observed) probe(id string, k ProbeKind) ProbeState {
	if p := o.Probes[id]; p != nil {
		return *p.Of(k)
	}
	return ProbeState{}
}

// started tells whether the container counts as started: it runs and its startup probe, if any, succeeded.
func (o *Observed) started(c *v1.Container, i *Instance) bool {
	if i == nil || i.State != Running {
		return false
	}
	return c.StartupProbe == nil || o.probe(i.ID, Startup).Success
}

// ready tells whether the container counts as ready.
func (o *Observed) ready(c *v1.Container, i *Instance) bool {
	if !o.started(c, i) {
		return false
	}
	return c.ReadinessProbe == nil || o.probe(i.ID, Readiness).Success
}

// probes asks for the probes of a running instance that are due, and for its end where one has failed for
// good.
func (n *next) probes(c *v1.Container, i *Instance) {
	for _, k := range []ProbeKind{Startup, Readiness, Liveness} {
		p := probeOf(c, k)
		if p == nil {
			continue
		}
		s := n.obs.probe(i.ID, k)
		if k == Startup && s.Success {
			continue // it has done its work
		}
		if k != Startup && !n.obs.started(c, i) {
			continue
		}
		if s.Failed && k != Readiness {
			n.stop(i, n.grace(), string(k)+" probe failed: "+s.Message)
			return
		}
		n.runProbe(p, k, c, i, s)
	}
}

func (n *next) runProbe(p *v1.Probe, k ProbeKind, c *v1.Container, i *Instance, s ProbeState) {
	due := i.StartedAt.Add(time.Duration(p.InitialDelaySeconds) * time.Second)
	if !s.LastAt.IsZero() {
		due = s.LastAt.Add(time.Duration(p.PeriodSeconds) * time.Second)
		if k == Readiness && !s.Ever && s.InARow < 10 {
			// A pod that is about to become ready should not wait for a whole period: the first
			// misses are asked again soon, growing to the period.
			due = s.LastAt.Add(min(time.Duration(p.PeriodSeconds)*time.Second, earlyProbe<<(s.InARow-1)))
		}
	}
	if n.wait(due) {
		n.do(Action{Kind: Probe, Container: c.Name, ID: i.ID, ProbeKind: k})
	}
}

// earlyProbe is the first pause of a readiness probe that has not succeeded yet.
const earlyProbe = 20 * time.Millisecond
