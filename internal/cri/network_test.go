package cri

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeNetwork is ready or not, and remembers what it was told.
type fakeNetwork struct {
	ready   error
	subnets []netip.Prefix
}

func (f *fakeNetwork) Ready(context.Context) error { return f.ready }
func (f *fakeNetwork) SetSubnets(_ context.Context, s []netip.Prefix) error {
	f.subnets = s
	return nil
}

func TestNetworkReadyIsWhatTheNetworkSays(t *testing.T) {
	s, n, ctx := newServer(t), &fakeNetwork{}, context.Background()
	s.cfg.Network = n
	for _, want := range []error{nil, errors.New("no network is configured"), nil} {
		n.ready = want
		st, err := s.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		got := st.Status.Conditions[1]
		if got.Type != runtimeapi.NetworkReady || got.Status != (want == nil) || want != nil && (got.Message != want.Error() || got.Reason == "") {
			t.Errorf("%v became %v", want, got)
		}
	}
	_, err := s.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.1.2.3/24, fd01::/64"}},
	})
	if err != nil || fmt.Sprint(n.subnets) != "[10.1.2.0/24 fd01::/64]" {
		t.Errorf("%v, %v", n.subnets, err)
	}
}

func TestWritableAnnotation(t *testing.T) {
	c := podConfig()
	for text, want := range map[string]int64{"1Mi": 1 << 20, "10G": 10e9, "": 0, "1Mb": 0, "0": 0, "-1Gi": 0, "1023Ki": 0, "2Pi": 0} {
		c.Annotations = map[string]string{"io.berth.pod.writable-limit": text}
		if spec, err := sandboxSpec(c); spec.WritableLimit != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, spec.WritableLimit, err)
		}
	}
}

func TestNetworkAnnotations(t *testing.T) {
	c := podConfig()
	c.Annotations = map[string]string{
		"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1Gi", "io.berth.pod.ips": "10.88.0.9, fd88::9",
	}
	spec, err := sandboxSpec(c)
	if err != nil || spec.Bandwidth.Ingress != 10e6 || spec.Bandwidth.Egress != 1<<30 || fmt.Sprint(spec.IPs) != "[10.88.0.9 fd88::9]" {
		t.Errorf("%+v, %v, %v", spec.Bandwidth, spec.IPs, err)
	}
	for _, bad := range []map[string]string{
		{"kubernetes.io/ingress-bandwidth": ""}, {"kubernetes.io/egress-bandwidth": "999"}, {"kubernetes.io/egress-bandwidth": "2P"},
		{"io.berth.pod.ips": ""}, {"io.berth.pod.ips": "10.0.0.1,10.0.0.2"}, {"io.berth.pod.ips": "fe80::1%eth0"}, {"io.berth.pod.ips": "::ffff:10.0.0.1"},
	} {
		c.Annotations = bad
		if _, err := sandboxSpec(c); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
