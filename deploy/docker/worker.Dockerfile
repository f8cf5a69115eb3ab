# The background worker: `docker buildx build --file deploy/docker/worker.Dockerfile --target worker .` in the tree's
# root. No media, no telephony: nothing of pjsua2, aiortc or torch. Targets: worker, sbom.
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/docker deploy/docker
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY media media
RUN deploy/docker/install.sh worker /opt/microturn \
    && cp deploy/docker/health.py deploy/docker/sbom.py /opt/microturn/

FROM ${BASE} AS runtime
RUN apt-get update && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 microturn && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp microturn
COPY --from=build /opt/microturn /opt/microturn
ARG VERSION=0.1.0
RUN /opt/microturn/bin/python /opt/microturn/sbom.py microturn-worker "${VERSION}" >/opt/microturn/sbom.cdx.json
# its metrics are its sign of life: http_host beyond loopback asks for webrtc_calls = 0
ENV PATH=/opt/microturn/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp MICROTURN_RUN_DIR=/tmp/microturn \
    MICROTURN_BACKGROUND_METRICS_PORT=9091 MICROTURN_WEBRTC_CALLS=0
WORKDIR /tmp
USER 10001:10001
EXPOSE 9091/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
    CMD ["/opt/microturn/bin/python", "/opt/microturn/health.py", "http", "http://127.0.0.1:9091/metrics"]
ENTRYPOINT ["/usr/bin/tini", "--", "microturn"]
CMD ["worker"]

FROM scratch AS sbom
COPY --from=runtime /opt/microturn/sbom.cdx.json /

FROM runtime AS worker
