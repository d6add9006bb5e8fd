# One image for every role: control plane, agent, node daemon.
#
#   docker build -t faultline:0.1.0 .                    compiles it
#   docker build --target prebuilt -t faultline:0.1.0 D  takes a finished binary
#                                                        D/faultline; no network
#
# BASE may be any glibc image; for `prebuilt` it must already carry nft,
# iptables and ip, which the node daemon calls.
ARG BASE=debian:bookworm-slim
ARG RUST=rust:1.95-bookworm

FROM ${BASE} AS prebuilt
COPY --chmod=0755 faultline /usr/local/bin/faultline
ENTRYPOINT ["/usr/local/bin/faultline"]

FROM ${RUST} AS builder
# The build scripts of the etcd and CRI clients call protoc.
RUN apt-get update \
 && apt-get install -y --no-install-recommends protobuf-compiler libprotobuf-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p cli

FROM ${BASE} AS runtime
RUN apt-get update \
 && apt-get install -y --no-install-recommends nftables iptables iproute2 ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=builder /src/target/release/faultline /usr/local/bin/faultline
# No USER: the charts run the control plane and the agent as 65532, the node
# daemon has to be root.
ENTRYPOINT ["/usr/local/bin/faultline"]
