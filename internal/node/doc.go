// Package node is the daemon: the one place where image store, network, shims, runtime, CRI and
// kubelet are put together.
//
//	node.sock   HTTP   the kubelet's node API, and below /node/ what the command line needs besides:
//	                   images, inventory (fsck), traces
//	cri.sock    gRPC   CRI v1, for exec, crictl or a stock kubelet
//
// With Config.CRIOnly the kubelet is left out: the node serves the CRI to somebody else's, and node.sock
// answers below /node/ alone.
//
// Both sockets are their owner's alone; unless it is configured otherwise they are in the run directory,
// which only root may enter. A lock in it keeps a second node away. What a node is called on the machine
// (bridge, nftables table, cgroup) follows from its run directory, so that several can live side by side.
//
// A node that ends by itself (Config.IdleExit, or asked to while it has no pod) removes all that it
// made on the machine: bridge, table, cgroup, sockets, the run directory. One that is asked to end
// while it has pods leaves them running; the next node takes them over.
//
// It never knows what a pod is: that is the kubelet's.
package node
