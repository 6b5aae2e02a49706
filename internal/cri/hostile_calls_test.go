package cri

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Every field of every other request is hostile once, too, against a node with one pod: nothing panics, a refusal has a
// code that tells whose fault it is, and nothing comes of it. TestEveryFieldHostile has the two that make something.
func TestEveryCallHostile(t *testing.T) {
	run := t.TempDir()
	s := newServerIn(t, run)
	c, _, socket := dial(t, s)
	runPod(t, c)
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tried := 0
	services := (&runtimeapi.VersionRequest{}).ProtoReflect().Descriptor().ParentFile().Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			if m.IsStreamingServer() || m.Name() == "RunPodSandbox" || m.Name() == "CreateContainer" {
				continue
			}
			in, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			out, oerr := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			if err != nil || oerr != nil {
				t.Fatal(err, oerr)
			}
			path := "/" + string(services.Get(i).FullName()) + "/" + string(m.Name())
			eachHostile(in.New().Interface(), func(what string, q proto.Message) {
				tried++
				switch err := conn.Invoke(t.Context(), path, q, out.New().Interface()); status.Code(err) {
				case codes.OK, codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.Unauthenticated:
				default:
					t.Errorf("%s, %s: %.300v", path, what, err)
				}
			})
		}
	}
	if n := len(s.rt.Sandboxes()); n != 1 {
		t.Errorf("%d sandboxes", n)
	}
	t.Logf("%d hostile requests", tried)
	if tried < 3000 {
		t.Errorf("only %d requests: is every field tried?", tried)
	}
}
