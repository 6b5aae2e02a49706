package cni

import (
	"testing"

	"github.com/containernetworking/cni/pkg/types/create"
)

func FuzzParseList(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"bridge","capabilities":{"portMappings":true}}]}`), true)
	f.Add([]byte(`{"cniVersion":"0.2.0","name":"n","type":"bridge"}`), false)
	f.Add([]byte(`{"cniVersions":["1.0.0","9.0.0"],"name":"../x","plugins":[null],"disableGC":"true"}`), true)
	f.Fuzz(func(t *testing.T, b []byte, isList bool) {
		list, err := parseList(b, isList)
		if err != nil || checkList(list) != nil {
			return
		}
		if _, err := save(list).list(); err != nil {
			t.Errorf("a list that was taken can not be read again: %v", err)
		}
	})
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(goodResult))
	f.Add([]byte(`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","interfaces":[null],"ips":[null,{"interface":-1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		res, err := create.CreateFromBytes(b)
		if err != nil {
			return
		}
		if r, err := resultOf(res); err == nil && (len(r.IPs) == 0 || len(r.IPs) != len(r.Gateways) || len(r.IPs) != len(r.Addresses)) {
			t.Errorf("%+v", r)
		}
	})
}

func FuzzAttachment(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"a","state":"attaching","network":{"name":"n","plugins":[{"type":"fake"}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAttachment(b); err == nil && a.ID == "" {
			t.Error("a record of nobody")
		}
	})
}
