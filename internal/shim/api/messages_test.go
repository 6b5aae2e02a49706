package api_test

import (
	"testing"

	. "github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/pb"
	"github.com/11f9778f/berth/internal/shim/wire/wiretest"
)

func pairs() []wiretest.Pair {
	return []wiretest.Pair{
		wiretest.Of[HelloRequest](&pb.HelloRequest{}), wiretest.Of[HelloResponse](&pb.HelloResponse{}),
		wiretest.Of[ListRequest](&pb.ListRequest{}), wiretest.Of[ListResponse](&pb.ListResponse{}), wiretest.Of[Exit](&pb.Exit{}),
		wiretest.Of[CreateOptions](&pb.CreateOptions{}), wiretest.Of[CheckpointOptions](&pb.CheckpointOptions{}),
		wiretest.Of[SandboxOptions](&pb.SandboxOptions{}), wiretest.Of[ReopenLogRequest](&pb.ReopenLogRequest{}),
		wiretest.Of[ExecSyncRequest](&pb.ExecSyncRequest{}), wiretest.Of[ExecSyncResponse](&pb.ExecSyncResponse{}),
		wiretest.Of[ExecRequest](&pb.ExecRequest{}), wiretest.Of[AttachRequest](&pb.AttachRequest{}),
		wiretest.Of[StreamResponse](&pb.StreamResponse{}), wiretest.Of[StatsRequest](&pb.StatsRequest{}),
		wiretest.Of[StatsResponse](&pb.StatsResponse{}), wiretest.Of[EndRequest](&pb.EndRequest{}),
		wiretest.Of[UpgradeRequest](&pb.UpgradeRequest{}), wiretest.Of[TraceRequest](&pb.TraceRequest{}),
		wiretest.Of[TraceResponse](&pb.TraceResponse{}),
	}
}

func TestMessages(t *testing.T) { wiretest.Compare(t, pairs()...) }

func FuzzMessages(f *testing.F) { wiretest.Fuzz(f, pairs()...) }
