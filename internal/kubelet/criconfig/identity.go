package criconfig

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Labels and annotations by which a kubelet knows its containers again; the names are Kubernetes'.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	annotationHash           = "io.kubernetes.container.hash"
	annotationRestartCount   = "io.kubernetes.container.restartCount"
	annotationMessagePath    = "io.kubernetes.container.terminationMessagePath"
	annotationMessagePolicy  = "io.kubernetes.container.terminationMessagePolicy"
	annotationPodGrace       = "io.kubernetes.pod.terminationGracePeriod"
	annotationContainerPorts = "io.kubernetes.container.ports"
	annotationConfigSource   = "kubernetes.io/config.source"
	annotationBackOff        = "io.berth.container.backoff"
)

func podLabels(pod *v1.Pod) map[string]string {
	return map[string]string{LabelPodName: pod.Name, LabelPodNamespace: pod.Namespace, LabelPodUID: string(pod.UID)}
}

func containerAnnotations(in *Input) map[string]string {
	a := map[string]string{
		annotationHash:          Hash(in.Container),
		annotationRestartCount:  strconv.FormatUint(uint64(in.Attempt), 10),
		annotationMessagePath:   in.Container.TerminationMessagePath,
		annotationMessagePolicy: string(in.Container.TerminationMessagePolicy),
		annotationBackOff:       in.BackOff.String(),
	}
	if g := in.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		a[annotationPodGrace] = strconv.FormatInt(*g, 10)
	}
	if len(in.Container.Ports) > 0 {
		if ports, err := json.Marshal(in.Container.Ports); err == nil {
			a[annotationContainerPorts] = string(ports)
		}
	}
	return a
}

// BackOff reads back what StartContainer was told; 0 if there is nothing.
func BackOff(annotations map[string]string) time.Duration {
	d, err := time.ParseDuration(annotations[annotationBackOff])
	if err != nil {
		return 0
	}
	return d
}

// Hash names the version of a container's spec.
func Hash(c *v1.Container) string {
	data, err := json.Marshal(c)
	if err != nil { // a v1.Container always marshals
		return ""
	}
	h := fnv.New32a()
	h.Write(data)
	return fmt.Sprintf("%x", h.Sum32())
}
