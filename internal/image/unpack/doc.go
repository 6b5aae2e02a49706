// Package unpack applies one layer's tar stream to an empty directory, in the form that overlayfs wants
// for a lower directory. See Apply.
package unpack
