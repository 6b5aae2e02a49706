package telemetry

import (
	"context"
	"net/http"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// State is what is counted each time that somebody asks.
type State interface {
	// Pods, Containers and Shims count by state.
	Pods() map[string]int
	Containers() map[string]int
	Shims() map[string]int
	Images() int
	// PulledBytes is how much of layers has come, from registries and archives.
	PulledBytes() int64
	// LastEvent is the number of the newest entry of the event log.
	LastEvent() uint64
	// Repaired is how many things without an owner were removed.
	Repaired() uint64
}

// Metrics are a node's numbers. Its methods may be called from several goroutines.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	streams  *prometheus.CounterVec
	flying   *prometheus.GaugeVec
	pulls    *prometheus.HistogramVec
}

// buckets are bounds in seconds, from a call that is answered from memory to a large pull.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

// NewMetrics makes the numbers of a node of this version.
func NewMetrics(version string, s State) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "berth_cri_request_duration_seconds", Buckets: buckets,
			Help: "How long CRI calls took, by method and gRPC code."}, []string{"method", "code"}),
		streams: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_cri_streams_total",
			Help: "CRI streams that have ended, by method and gRPC code."}, []string{"method", "code"}),
		flying: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "berth_cri_requests_in_flight",
			Help: "CRI calls and streams under way, by method."}, []string{"method"}),
		pulls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "berth_image_pull_duration_seconds", Buckets: buckets,
			Help: "How long image pulls took, by result."}, []string{"result"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "berth_build_info", Help: "1, with Berth's version.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.registry.MustRegister(m.calls, m.streams, m.flying, m.pulls, build, counted{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves them.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Unary measures calls.
func (m *Metrics) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	flying := m.flying.WithLabelValues(method)
	flying.Inc()
	defer flying.Dec()
	began := time.Now()
	resp, err := h(ctx, req)
	m.calls.WithLabelValues(method, status.Code(err).String()).Observe(time.Since(began).Seconds())
	return resp, err
}

// Stream counts streams.
func (m *Metrics) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	method := path.Base(info.FullMethod)
	flying := m.flying.WithLabelValues(method)
	flying.Inc()
	defer flying.Dec()
	err := h(srv, ss)
	m.streams.WithLabelValues(method, status.Code(err).String()).Inc()
	return err
}

// Pulled notes a pull that began then and has just ended.
func (m *Metrics) Pulled(began time.Time, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.pulls.WithLabelValues(result).Observe(time.Since(began).Seconds())
}

// counted asks the node when Prometheus asks us.
type counted struct{ State }

var (
	podsDesc       = prometheus.NewDesc("berth_pods", "Pod sandboxes, by state.", []string{"state"}, nil)
	containersDesc = prometheus.NewDesc("berth_containers", "Containers, by state.", []string{"state"}, nil)
	shimsDesc      = prometheus.NewDesc("berth_shims", "Shim processes, by state; each keeps a group of pods.", []string{"state"}, nil)
	imagesDesc     = prometheus.NewDesc("berth_images", "Images in the store.", nil, nil)
	pulledDesc     = prometheus.NewDesc("berth_image_pull_bytes_total", "Bytes of layers that have come, from registries and archives, while they come.", nil, nil)
	eventsDesc     = prometheus.NewDesc("berth_event_log_last", "Number of the newest entry of the event log; it grows by one with each.", nil, nil)
	repairedDesc   = prometheus.NewDesc("berth_leaks_repaired_total", "Things without an owner (mounts, links, cgroups, ...) that were found and removed since the start.", nil, nil)
)

// Describe lists what Collect sends.
func (c counted) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{podsDesc, containersDesc, shimsDesc, imagesDesc, pulledDesc, eventsDesc, repairedDesc} {
		ch <- d
	}
}

// Collect counts now.
func (c counted) Collect(ch chan<- prometheus.Metric) {
	for desc, by := range map[*prometheus.Desc]map[string]int{podsDesc: c.Pods(), containersDesc: c.Containers(), shimsDesc: c.Shims()} {
		for state, n := range by {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), state)
		}
	}
	ch <- prometheus.MustNewConstMetric(imagesDesc, prometheus.GaugeValue, float64(c.Images()))
	ch <- prometheus.MustNewConstMetric(pulledDesc, prometheus.CounterValue, float64(c.PulledBytes()))
	ch <- prometheus.MustNewConstMetric(eventsDesc, prometheus.CounterValue, float64(c.LastEvent()))
	ch <- prometheus.MustNewConstMetric(repairedDesc, prometheus.CounterValue, float64(c.Repaired()))
}
