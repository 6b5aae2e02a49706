// Package pb is berth.shim.v1 as protoc generates it from shim.proto: the daemon's end. The shim's own, which weighs less,
// is package api; api's tests hold the two against each other.
package pb

//go:generate protoc -I.. --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative shim.proto
