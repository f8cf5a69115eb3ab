# The model server: `docker buildx build --file deploy/docker/model.Dockerfile --target cpu .` in the tree's root.
# Targets: cpu (engines echo and digits), cuda (engine sglang, for GPUs), sbom-cpu, sbom-cuda.
# torch's CPU build comes from an index that has it: --build-arg PIP_EXTRA_INDEX_URL=...; without one CUDA's comes.
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS sources
WORKDIR /src
COPY deploy/docker deploy/docker
COPY pyproject.toml README.md LICENSE ./
COPY media media
COPY model_server model_server
COPY kernels kernels

FROM sources AS build-cpu
ARG PIP_EXTRA_INDEX_URL=""
RUN PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL}" deploy/docker/install.sh model-cpu /opt/microturn \
    && cp deploy/docker/health.py deploy/docker/sbom.py /opt/microturn/

FROM sources AS build-cuda
ARG PIP_EXTRA_INDEX_URL=""
RUN PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL}" deploy/docker/install.sh model-cuda /opt/microturn \
    && cp deploy/docker/health.py deploy/docker/sbom.py /opt/microturn/

# --- what runs: with a C compiler, since layers are compiled for the CPU that is there when it starts ---
FROM ${BASE} AS base
RUN apt-get update && apt-get install --yes --no-install-recommends tini=0.19.* gcc=4:12.2.* libc6-dev=2.36-* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 microturn && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp microturn \
    && install --directory --owner=10001 --group=10001 --mode=0700 /run/microturn
ENV PATH=/opt/microturn/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp MICROTURN_MODEL_SOCKET=/run/microturn/gateway/model.sock
WORKDIR /tmp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["/opt/microturn/bin/python", "/opt/microturn/health.py", "model", "/run/microturn/gateway/model.sock"]
ENTRYPOINT ["/usr/bin/tini", "--", "python", "-m", "model_server"]

FROM base AS runtime-cuda
# what the NVIDIA container runtime is to give: the driver's libraries alone, torch brings the rest of CUDA
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/microturn /opt/microturn
ARG VERSION=0.1.0
RUN /opt/microturn/bin/python /opt/microturn/sbom.py microturn-model-cuda "${VERSION}" >/opt/microturn/sbom.cdx.json
USER 10001:10001
CMD ["--engine", "sglang"]

FROM scratch AS sbom-cuda
COPY --from=runtime-cuda /opt/microturn/sbom.cdx.json /

FROM runtime-cuda AS cuda

FROM base AS runtime-cpu
COPY --from=build-cpu /opt/microturn /opt/microturn
ARG VERSION=0.1.0
RUN /opt/microturn/bin/python /opt/microturn/sbom.py microturn-model-cpu "${VERSION}" >/opt/microturn/sbom.cdx.json
USER 10001:10001
CMD ["--engine", "digits"]

FROM scratch AS sbom-cpu
COPY --from=runtime-cpu /opt/microturn/sbom.cdx.json /

FROM runtime-cpu AS cpu
