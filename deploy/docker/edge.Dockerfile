# The Kamailio edge: Debian's 5.6, with TLS. Its configuration is the chart's (deploy/helm/microturn/files).
ARG BASE=debian:bookworm-20250811-slim

FROM ${BASE} AS edge
RUN apt-get update && apt-get install --yes --no-install-recommends \
        tini=0.19.* kamailio=5.6.* kamailio-tls-modules=5.6.* \
    && rm -rf /var/lib/apt/lists/* /etc/kamailio \
    && groupadd --gid 10001 edge && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp edge
WORKDIR /tmp
USER 10001:10001
EXPOSE 5060/udp 5060/tcp 5061/tcp
STOPSIGNAL SIGTERM
# its own page: event_route[xhttp:request] of the configuration
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${HEALTH_PORT:-9090} && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '^ok' <&3"]
ENTRYPOINT ["/usr/bin/tini", "--", "kamailio", "-DD", "-E", "-f", "/etc/kamailio/kamailio.cfg"]
