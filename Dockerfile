# The gateway with all its providers, beside databases that run elsewhere; the embedded PostgreSQL of the demo is not in
# the image. docs/operations.md ("In a container") says how to run it.
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt requirements.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install -c constraints.txt pip hatchling
COPY LICENSE README.md pyproject.toml ./
COPY clients/python clients/python
COPY migrations migrations
COPY server server
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels ./clients/python .
# Every file by its hash, and ours by path: by name, pip might take a stranger's package from the registry.
RUN python -m venv /opt/changefeed \
    && /opt/changefeed/bin/pip install --require-hashes --no-deps -r requirements.lock \
    && /opt/changefeed/bin/pip install --no-index --no-deps /wheels/*.whl \
    && /opt/changefeed/bin/pip check

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --home-dir /var/lib/changefeed --create-home changefeed
COPY --from=build /opt/changefeed /opt/changefeed
COPY scripts/probe_health.py /opt/changefeed/probe_health.py
ENV PATH=/opt/changefeed/bin:$PATH \
    PYTHONUNBUFFERED=1
# A number, so that a platform which refuses root can tell.
USER 10001
# Mount changefeed.yaml here, with tokens.keys: without, tokens end with the key in .changefeed, which ends with the container.
WORKDIR /var/lib/changefeed
# No EXPOSE: without settings the gateway listens on loopback (port 50051), where no published port leads. Its callers share
# its network (--network host, a pod's), or it listens elsewhere with TLS (docs/security.md).
# SIGTERM drains: streams get a token to resume from, then the process ends.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
  CMD ["python", "/opt/changefeed/probe_health.py"]
ENTRYPOINT ["changefeed"]
CMD ["serve"]
