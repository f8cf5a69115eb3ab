# The gateway: `docker buildx build --file deploy/docker/gateway.Dockerfile --target gateway .` in the tree's root.
# Targets: gateway (the image), sbom (its bill of materials alone, for --output). README.md beside it has the rest.
ARG BASE=python:3.11.13-slim-bookworm

# --- build: pjsua2 by deploy/pjsip, the environment ---
FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# what deploy/pjsip/build.sh would install by itself, in a layer of its own
RUN apt-get update && apt-get install --yes --no-install-recommends \
        build-essential=12.* swig=4.1.* libopus-dev=1.3.* libssl-dev=3.0.* libsrtp2-dev=2.5.* uuid-dev=2.38.* \
        libsamplerate0-dev=0.2.* xz-utils=5.4.* ca-certificates=2023* libcap2-bin=1:2.66-* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY deploy/pjsip deploy/pjsip
# a tarball of pjproject 2.17 in the build's context, or a URL; empty: Debian's (its checksum is in SHA256SUMS)
ARG PJPROJECT_SOURCE=""
RUN MICROTURN_CACHE=/wheels PJPROJECT_SOURCE="${PJPROJECT_SOURCE}" deploy/pjsip/build.sh
COPY deploy/docker deploy/docker
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY media media
RUN deploy/docker/install.sh gateway /opt/microturn /wheels/pjsip/*/pjsua2-*.whl \
    # the same interpreter with the right to real-time scheduling: the chart's gateway.realtime starts it
    && cp --dereference /opt/microturn/bin/python /opt/microturn/bin/python-realtime \
    && setcap cap_sys_nice=ep /opt/microturn/bin/python-realtime \
    && cp deploy/docker/health.py deploy/docker/keep.py deploy/docker/place_calls.py deploy/docker/sbom.py /opt/microturn/

# --- what runs ---
FROM ${BASE} AS runtime
RUN apt-get update && apt-get install --yes --no-install-recommends \
        tini=0.19.* libopus0=1.3.* libssl3=3.0.* libsrtp2-1=2.5.* libsamplerate0=0.2.* libuuid1=2.38.* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 microturn && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp microturn \
    && install --directory --owner=10001 --group=10001 --mode=0700 /run/microturn /var/lib/microturn
COPY --from=build /opt/microturn /opt/microturn
ARG VERSION=0.1.0
RUN /opt/microturn/bin/python /opt/microturn/sbom.py microturn-gateway "${VERSION}" >/opt/microturn/sbom.cdx.json
ENV PATH=/opt/microturn/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp MICROTURN_RUN_DIR=/run/microturn/gateway
WORKDIR /tmp
USER 10001:10001
EXPOSE 5060/udp 5060/tcp 8080/tcp 7600/udp 7600/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["/opt/microturn/bin/python", "/opt/microturn/health.py", "http", "http://127.0.0.1:8080/healthz"]
# workers outlive the main process: keep.py starts the next one beside them
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/microturn/bin/python", "/opt/microturn/keep.py"]
CMD ["microturn", "gateway"]

FROM scratch AS sbom
COPY --from=runtime /opt/microturn/sbom.cdx.json /

FROM runtime AS gateway
