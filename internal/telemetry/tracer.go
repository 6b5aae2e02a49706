package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	steps "github.com/11f9778f/berth/internal/trace"
)

// TracerConfig says where traces go. Endpoint is required.
type TracerConfig struct {
	// Endpoint is an OTLP/HTTP collector, "http://127.0.0.1:4318".
	Endpoint string
	// SampleRatio is the share of the calls that are traced, unless the caller has decided.
	SampleRatio float64
	// Version is Berth's own; Run tells nodes of one machine apart.
	Version, Run string
	// ShimSteps returns what a shim measured of a container's start.
	ShimSteps func(ctx context.Context, containerID string) ([]steps.Span, error)
	Log       *slog.Logger
}

// Tracer sends a trace of each call that changes something.
type Tracer struct {
	cfg      TracerConfig
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	late     sync.WaitGroup // what asks shims after a call was answered
}

// NewTracer makes one. Whether the collector answers shows later, and is only logged.
func NewTracer(ctx context.Context, cfg TracerConfig) (*Tracer, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(strings.TrimSuffix(cfg.Endpoint, "/")+"/v1/traces"))
	if err != nil {
		return nil, fmt.Errorf("trace to %s: %w", cfg.Endpoint, err)
	}
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(logged{exporter, cfg.Log}, sdk.WithBatchTimeout(time.Second)),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(cfg.SampleRatio))),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "berth"), attribute.String("service.version", cfg.Version), attribute.String("berth.run", cfg.Run))),
	)
	return &Tracer{cfg: cfg, provider: provider, tracer: provider.Tracer("berth")}, nil
}

// logged says when spans could not be sent, in the node's log and not on standard error.
type logged struct {
	sdk.SpanExporter
	log *slog.Logger
}

func (l logged) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	if err := l.SpanExporter.ExportSpans(ctx, spans); err != nil {
		l.log.Warn("traces are lost", "spans", len(spans), "error", err)
	}
	return nil
}

// Close sends what is there, and gives up after a moment.
func (t *Tracer) Close() error {
	t.late.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return t.provider.Shutdown(ctx)
}

// traced tells calls that do something from those that only look.
func traced(method string) bool {
	for _, looks := range []string{"List", "Version", "RuntimeConfig"} {
		if strings.HasPrefix(method, looks) {
			return false
		}
	}
	return !strings.HasSuffix(method, "Status") && !strings.HasSuffix(method, "Stats") && !strings.HasSuffix(method, "Info")
}

// Unary traces a call: a span for it, below that of the caller if it brought one, and in it a span for
// each step that was recorded.
func (t *Tracer) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	if !traced(method) {
		return h(ctx, req)
	}
	parent := ctx
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		parent = propagation.TraceContext{}.Extract(ctx, carrier(md))
	}
	began := time.Now()
	sctx, span := t.tracer.Start(parent, "cri."+method, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(began))
	if !span.IsRecording() {
		return h(ctx, req)
	}
	rec := &steps.Recorder{}
	resp, err := h(steps.With(ctx, rec), req)
	ended := time.Now()
	span.SetAttributes(attributes(req, resp)...)
	if err != nil {
		span.SetStatus(codes.Error, status.Convert(err).Message())
	}
	finish := func(more []steps.Span) {
		t.emit(sctx, append(rec.Spans(), more...))
		span.End(trace.WithTimestamp(ended))
	}
	id := startedContainer(req, resp)
	if id == "" || err != nil || t.cfg.ShimSteps == nil {
		finish(nil)
		return resp, err
	}
	t.late.Go(func() { // the caller does not wait for what the shim has to tell
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		more, err := t.cfg.ShimSteps(late, id)
		if err != nil {
			t.cfg.Log.Debug("a shim's steps are missing in a trace", "container", id, "error", err)
		}
		finish(slices.DeleteFunc(more, func(s steps.Span) bool { return s.Start.Before(began) || s.Start.After(ended) }))
	})
	return resp, err
}

// emit makes spans of the steps, each inside the shortest one that it happened in.
func (t *Tracer) emit(ctx context.Context, list []steps.Span) {
	slices.SortStableFunc(list, func(a, b steps.Span) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(b.Duration, a.Duration))
	})
	type open struct {
		ctx context.Context
		end time.Time
	}
	var stack []open
	for _, s := range list {
		end := s.Start.Add(s.Duration)
		for len(stack) > 0 && stack[len(stack)-1].end.Before(end) {
			stack = stack[:len(stack)-1]
		}
		parent := ctx
		if len(stack) > 0 {
			parent = stack[len(stack)-1].ctx
		}
		sctx, span := t.tracer.Start(parent, s.Name, trace.WithTimestamp(s.Start))
		span.End(trace.WithTimestamp(end))
		stack = append(stack, open{sctx, end})
	}
}

// startedContainer is the container that a call has made or started, of which its shim has steps.
func startedContainer(req, resp any) string {
	if r, ok := req.(*runtimeapi.StartContainerRequest); ok {
		return r.GetContainerId()
	}
	if r, ok := resp.(*runtimeapi.CreateContainerResponse); ok {
		return r.GetContainerId()
	}
	return ""
}

// attributes say what the call was about.
func attributes(req, resp any) []attribute.KeyValue {
	var out []attribute.KeyValue
	add := func(key, value string) {
		if value != "" {
			out = append(out, attribute.String(key, value))
		}
	}
	if r, ok := req.(interface {
		GetConfig() *runtimeapi.PodSandboxConfig
	}); ok {
		m := r.GetConfig().GetMetadata()
		add("k8s.namespace.name", m.GetNamespace())
		add("k8s.pod.name", m.GetName())
		add("k8s.pod.uid", m.GetUid())
	}
	if r, ok := req.(*runtimeapi.CreateContainerRequest); ok {
		m := r.GetSandboxConfig().GetMetadata()
		add("k8s.namespace.name", m.GetNamespace())
		add("k8s.pod.name", m.GetName())
		add("k8s.container.name", r.GetConfig().GetMetadata().GetName())
	}
	if r, ok := req.(*runtimeapi.PullImageRequest); ok {
		add("container.image.name", r.GetImage().GetImage())
	}
	for _, msg := range []any{req, resp} {
		if r, ok := msg.(interface{ GetPodSandboxId() string }); ok {
			add("berth.sandbox.id", r.GetPodSandboxId())
		}
		if r, ok := msg.(interface{ GetContainerId() string }); ok {
			add("container.id", r.GetContainerId())
		}
	}
	return out
}

// carrier reads a trace's context from a call's metadata.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}
func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
