# The image of Tally: one binary on a base image without a shell. It runs with uid 65532.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --tag tally:0.1.0 .
#
# Digests name the base images, so that the same file builds the same image; --build-arg replaces them. Buildah and Podman need
# --format docker, because the OCI format has no HEALTHCHECK.
ARG RUST_IMAGE=rust:1.95.0-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f
# `compiled` builds the binary; `prebuilt` uses the existing target/dist/tally, which must not need a newer glibc than that of the base image.
ARG BINARY=compiled

# ----- build
FROM ${RUST_IMAGE} AS rust
# Without this variable, rust-toolchain.toml would make rustup download clippy and rustfmt.
ENV RUSTUP_TOOLCHAIN=1.95.0 CARGO_INCREMENTAL=0
# The binary must not contain paths of the build machine.
ENV RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
RUN command -v setcap >/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends libcap2-bin && rm -rf /var/lib/apt/lists/*)
WORKDIR /src

FROM rust AS chef
RUN cargo install --locked cargo-chef@0.1.78

FROM chef AS recipe
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

FROM chef AS compiled
# Compiles the dependencies. This layer is reused until Cargo.lock changes.
COPY --from=recipe /recipe.json /recipe.json
RUN cargo chef cook --locked --profile dist --recipe-path /recipe.json
COPY . .
ARG REVISION=unknown
RUN TALLY_COMMIT="$(printf %.12s "${REVISION}")" cargo build --locked --profile dist --bin tally

FROM rust AS prebuilt
COPY target/dist/tally target/dist/tally

# ----- image
FROM ${BINARY} AS binary
# Keeps the names of functions, for backtraces. Moves line numbers to a separate file (`--target debug` builds it).
RUN mkdir -p /out/data \
    && objcopy --only-keep-debug target/dist/tally /out/tally.debug \
    && cp target/dist/tally /out/tally \
    && strip --strip-debug /out/tally \
    && objcopy --add-gnu-debuglink=/out/tally.debug /out/tally \
    && chmod 0755 /out/tally
# Sets the capability as permitted, not effective: so the binary also starts if the container does not get this capability. The binary
# uses real-time scheduling only if configured.
RUN setcap cap_sys_nice+p /out/tally

FROM scratch AS debug
COPY --from=binary /out/tally.debug /tally.debug

FROM ${BASE_IMAGE} AS tally
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="Tally" \
      org.opencontainers.image.description="A double-entry ledger behind gRPC that keeps its latency promise" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=binary /out/tally /usr/local/bin/tally
# A new volume gets its owner from this directory.
COPY --from=binary --chown=65532:65532 /out/data /var/lib/tally
USER 65532:65532
WORKDIR /var/lib/tally
VOLUME /var/lib/tally
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["/usr/local/bin/tally", "health"]
ENTRYPOINT ["/usr/local/bin/tally"]
# Listens on the loopback address. Any other address needs TLS and tokens, or an explicit setting to serve without them.
CMD ["serve", "--data", "/var/lib/tally/ledger"]
