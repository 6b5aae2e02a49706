# Berth. `make run` shows it, `make test` proves it. Everything that is built lands in bin/ and .cache/.
SHELL       := bash
# Tests find the CRIU of `make criu` before that of the system.
export PATH := $(CURDIR)/.cache/criu:$(PATH)
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
GOBUILD  := CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)"
PREFIX   ?= /usr/local
TOOLS    := $(CURDIR)/.cache/bin
RUN      ?=          # make test RUN=TestHello: only these tests of test/

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
CRITOOLS    := sigs.k8s.io/cri-tools@v1.36.0
DEPGUARD    := github.com/OpenPeeDeeP/depguard/v2/cmd/depguard@v2.3.0

.PHONY: build run test strace cni unit e2e containerd conformance conformance-containerd conformance-cri conformance-cri-more conformance-cri-more-containerd conformance-oci conformance-kubelet kubelet lint bench bench-peers install man clean tools busybox crictl

build: ## static binaries in bin/
	$(GOBUILD) -tags nri_no_wasm -o bin/ ./cmd/berth # plugins are processes here, no WebAssembly
	$(GOBUILD) -o bin/ ./cmd/containerd-shim-berth-v1
	$(GOBUILD) -o bin/ ./cmd/berth-oci

# The example pod in a root and a run directory of its own: nothing is left behind. On a terminal it
# follows the pod's logs until Ctrl-C; without one it ends the pod after the page was fetched.
run: build ## build, run examples/hello.yaml, fetch its page
	dir=$$(mktemp -d); trap 'rm -rf --one-file-system "$$dir"' EXIT; \
	bin/berth --root "$$dir/root" --run "$$dir/run" run examples/hello.yaml --check http://127.0.0.1:8080/

test: lint build busybox containerd cni crictl criu strace ## everything: lint, unit, root and end-to-end tests
	go test -p 2 -timeout 20m $$(go list ./... | grep -v /test$$)
	go test -timeout 25m -v -count=1 -failfast ./test $(if $(RUN),-run $(RUN))
	$(MAKE) conformance-cri
	$(MAKE) conformance-cri CRITEST="-parallel 4 -websocket -no-pools"
	$(MAKE) conformance-cri-more
	go run ./test/ocivalidate
	$(MAKE) test-vm-short

unit: criu strace ## the tests beside the code only
	go test -p 2 -timeout 20m $$(go list ./... | grep -v /test$$)

e2e: build busybox crictl criu ## the end-to-end tests only; RUN=name picks some
	go test -timeout 25m -v -count=1 ./test $(if $(RUN),-run $(RUN))

# Flags of test/critest: make conformance-cri CRITEST="-parallel 4 -websocket -times 5"
conformance-cri: build ## critest, Kubernetes' conformance suite of the CRI, against a node of its own
	go run ./test/critest $(CRITEST)

# What critest never calls. Berth's side is in make test; containerd's is a test of that test.
CRI_CONFORMANCE := go run ./test/criconformance/run
conformance-cri-more: build busybox criu ## events, pod statistics, metrics, streamed lists, updates, contracts, against a node of its own
	$(CRI_CONFORMANCE)

conformance-cri-more-containerd: busybox containerd ## the same against a containerd of its own, with the runc of conformance-oci
	$(CRI_CONFORMANCE) -containerd .cache/containerd/bin:$$(ls -d .cache/oci/runc-v* | tail -1)

# make test runs Berth's side alone, against the table that this writes.
conformance-oci: build ## runtime-tools' validation of OCI runtimes, Berth and runc side by side, into docs/conformance-oci.md
	go run ./test/ocivalidate -compare $(OCIVALIDATE)

conformance-containerd: build busybox containerd cni ## the shim below a stock containerd: ctr, and critest by its CRI plugin
	go test -count=1 ./test/containerd
	go run ./test/critest -containerd .cache/containerd/bin

# Not part of make test: the first build of the kubelet takes ten minutes and more on two cores. Once it is
# there, the end-to-end tests run it too.
conformance-kubelet: build kubelet ## upstream's kubelet with static pods on berth cri
	go test -timeout 10m -v -count=1 ./test -run TestStockKubelet

# make test kills the daemon 40 times. The result of this: docs/conformance-cri.md.
.PHONY: test-churn
test-churn: build busybox criu ## the daemon killed 200 times while 20 pods come and go
	BERTH_TEST_KILLS=200 go test -timeout 30m -v -count=1 ./test -run TestDaemonKilledUnderChurn

conformance: conformance-cri conformance-cri-more conformance-oci conformance-containerd ## all conformance suites

.PHONY: test-vm test-vm-short qemu mkfs
# Pure cgroup v2, AppArmor, every capability: what the machine at hand may lack.
test-vm: build qemu mkfs busybox criu ## the engine's tests in virtual machines, the result into docs/test-vm.md, checkpoints, those of the network that take SCTP, those that take quota
	test/vm/engine
	test/vm/network
	test/vm/checkpoint
	test/vm/quota

test-vm-short: qemu mkfs busybox ## the part of test-vm that make test runs; says why if there is no QEMU
	test/vm/engine short
	test/vm/quota short

lint: $(TOOLS)/staticcheck $(TOOLS)/depguard ## gofmt, vet, staticcheck, the direction of imports
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "gofmt -w would change:"; echo "$$bad"; exit 1; fi
	go vet ./...
	$(TOOLS)/staticcheck ./...
	$(TOOLS)/depguard ./...

bench: build ## pod start, exec, stop+remove at 1, 10, 50 at once, over CRI
	go run ./bench -berth bin/berth $(BENCH)

# 50 and 200 pods; 500 and 1,000 too: make bench-density DENSITY=50,200,500,1000. Beside containerd: BENCH="-containerd .cache/containerd/bin"
DENSITY ?= 50,200
.PHONY: bench-density
bench-density: build ## full nodes: memory a pod, lists, idle processor time, restart of the daemon, pods a second
	go run ./bench -berth bin/berth -network bridge -density $(DENSITY) $(BENCH)

bench-peers: build containerd cni ## the same beside a stock containerd with the newest runc and Debian 13's crun, interleaved
	go run ./test/ocivalidate -build
	@test/trixie/crun $(CURDIR)/.cache/crun || echo "crun could not be fetched: it is left out"
	go run ./bench -berth bin/berth -containerd .cache/containerd/bin -runc "$$(ls $(CURDIR)/.cache/oci/runc-v*/runc | tail -1)" \
	  -crun $(CURDIR)/.cache/crun/crun $(BENCH)

# Units, manual pages, completion and the explained configuration: packaging/README.md.
SHARE := $(DESTDIR)$(PREFIX)/share
UNITS := $(DESTDIR)$(PREFIX)/lib/systemd/system
install: build man ## below $(PREFIX): binaries, systemd units, manual pages, completion, explained configuration
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin bin/berth bin/berth-oci bin/containerd-shim-berth-v1
	install -D -m 0644 -t $(UNITS) packaging/*.service
	sed -i 's|/usr/local/bin|$(PREFIX)/bin|' $(UNITS)/berth-cri.service $(UNITS)/berth-node.service
	install -D -m 0644 -t $(SHARE)/man/man1 bin/man/*.1
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d $(SHARE)/berth
	bin/berth completion bash > $(SHARE)/bash-completion/completions/berth
	bin/berth completion zsh > $(SHARE)/zsh/site-functions/_berth
	bin/berth completion fish > $(SHARE)/fish/vendor_completions.d/berth.fish
	bin/berth config default > $(SHARE)/berth/config.toml

man: ## manual pages in bin/man
	rm -rf bin/man && mkdir -p bin/man
	go test -count=1 -run TestManualPages ./cmd/berth -man $(CURDIR)/bin/man

clean: ## what was built here
	rm -rf bin .cache

# What tests need and a fresh machine may lack. What can't be had is said here; the tests that need
# it skip with the reason.
$(TOOLS)/staticcheck:
	GOBIN=$(TOOLS) go install $(STATICCHECK)
$(TOOLS)/depguard:
	GOBIN=$(TOOLS) go install $(DEPGUARD)
# A stock containerd: ours is one of its shims, and its runc shim is one of Berth's.
CONTAINERD := v2.4.2
containerd: .cache/containerd/bin/$(CONTAINERD)
.cache/containerd/bin/$(CONTAINERD):
	CGO_ENABLED=0 GOBIN=$(CURDIR)/.cache/containerd/bin go install -trimpath -tags "no_btrfs no_devmapper no_zfs no_aufs no_systemd" \
	  -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$(CONTAINERD)" \
	  $(foreach cmd,containerd ctr containerd-shim-runc-v2,github.com/containerd/containerd/v2/cmd/$(cmd)@$(CONTAINERD)) \
	  && touch $@ || echo "containerd could not be built: the tests with it will be skipped"

# $(call apt,PACKAGES) installs them, after a look for newer ones if need be.
apt = { apt-get install -y -q --no-install-recommends $(1) || { apt-get update -q && apt-get install -y -q --no-install-recommends $(1); }; } </dev/null

# The plugins that the CNI network is tested with and that a stock containerd uses, and what two of them call.
CNI_PLUGINS := v1.9.1
CNI_STAMP   := .cache/cni/$(CNI_PLUGINS)
cni: $(CNI_STAMP)
	@command -v iptables >/dev/null || $(call apt,iptables) \
	  || echo "iptables could not be installed: the tests of the firewall plugin will be skipped"
$(CNI_STAMP):
	CGO_ENABLED=0 GOBIN=$(CURDIR)/.cache/cni go install -trimpath -ldflags "-s -w" \
	  $(foreach p,$(addprefix main/,bridge loopback ptp macvlan) ipam/host-local $(addprefix meta/,portmap firewall bandwidth),github.com/containernetworking/plugins/plugins/$(p)@$(CNI_PLUGINS)) \
	  && touch $@ || echo "the CNI plugins could not be built: the tests with them will be skipped"

# gVisor as a RuntimeClass handler: not part of make test. Its shim insists on a lower OOM score for itself, which needs
# CAP_SYS_RESOURCE: for the test it is built without.
.PHONY: gvisor test-gvisor
test-gvisor: gvisor build ## pods in gVisor
	BERTH_TEST_GVISOR=1 go test -count=1 -v -run TestForeignShim/gvisor ./internal/runtime/machine

GVISOR := v0.0.0-20260905035102-160fafc42237
gvisor: .cache/gvisor/bin/$(GVISOR) ## runsc and its shim from the Go proxy, some four minutes
.cache/gvisor/bin/$(GVISOR):
	CGO_ENABLED=0 GOBIN=$(CURDIR)/.cache/gvisor/bin go install -trimpath -ldflags "-s -w" gvisor.dev/gvisor/runsc@$(GVISOR)
	dir=$$(go mod download -json gvisor.dev/gvisor@$(GVISOR) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'); src=$$(mktemp -d); trap 'rm -rf "$$src"' EXIT; \
	  cp -r "$$dir/." "$$src" && chmod -R u+w "$$src" && sed -i 's/oomScoreMax = -999/oomScoreMax = 0/' "$$src/pkg/shim/v1/manager.go" && \
	  CGO_ENABLED=0 go build -C "$$src" -trimpath -ldflags "-s -w" -o $(CURDIR)/.cache/gvisor/bin/containerd-shim-runsc-v1 ./shim && touch $@

qemu:
	@command -v qemu-system-x86_64 >/dev/null || $(call apt,qemu-system-x86) \
	  || echo "qemu-system-x86 could not be installed: the tests in virtual machines will be skipped"
# Filesystems with quota, for the store's tests in virtual machines.
mkfs:
	@{ command -v mkfs.ext4 && command -v mkfs.xfs; } >/dev/null || $(call apt,e2fsprogs xfsprogs) \
	  || echo "e2fsprogs and xfsprogs could not be installed: tests of project quota will be skipped"
# What the store does to a disk, for the test that cuts its power.
strace:
	@command -v strace >/dev/null || $(call apt,strace) \
	  || echo "strace could not be installed: the test of power cuts will be skipped"
busybox:
	@dpkg -s busybox-static >/dev/null 2>&1 || $(call apt,busybox-static) \
	  || echo "busybox-static could not be installed: the registry tests will be skipped"
crictl:
	@[ -x $(TOOLS)/crictl ] || { dir=$$(go mod download -json $(CRITOOLS) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') && \
	  CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -C "$$dir" -trimpath -ldflags "-s -w" -o $(TOOLS)/crictl ./cmd/crictl; } \
	  || echo "crictl could not be built: its test will be skipped"

.PHONY: criu
# CRIU 4, for checkpoints: Debian 12's is too old for kernels of today, so Debian 13's is unpacked, with its libraries.
criu:
	@test/trixie/criu $(CURDIR)/.cache/criu || echo "CRIU 4 could not be fetched: the tests of checkpoints will be skipped"

KUBELETVERSION := $(shell sed -n 's|.*k8s.io/kubernetes \(v.*\)|\1|p' test/kubelet/go.mod)
kubelet:
	@[ -x $(TOOLS)/kubelet ] || CGO_ENABLED=0 go build -C test/kubelet -trimpath \
	  -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$(KUBELETVERSION)" -o $(TOOLS)/kubelet .
