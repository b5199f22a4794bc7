# One image for the command, for flow runs and for the worker. `make image` builds it.

FROM docker.io/library/debian:bookworm-slim AS base
# tini hands signals on, and to the main process alone: Prefect tells a flow run first why it is being ended.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/cache/ldconfig /var/log/*
# A user of any other number can write here too (docker run --user, OpenShift).
RUN useradd --uid 10001 --no-log-init --create-home somatic \
 && install -d -m 1777 /home/somatic /work


FROM base AS dependencies
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv
RUN python3 -m venv /build \
 && python3 -m venv --without-pip /opt/somatic
# With requirements.lock in its place the image has no Kubernetes worker and no gs://, and is 70 MB smaller.
ARG LOCK=requirements-worker.lock
COPY ${LOCK} /src/
# Tests of packages are a tenth of the image. Bytecode is kept, since a user who cannot write would compile it at every
# start; it is not checked against the time of its source, which an image need not keep.
RUN /build/bin/pip --python /opt/somatic/bin/python install --no-cache-dir --disable-pip-version-check \
      --no-compile --no-deps --require-hashes --only-binary :all: --requirement /src/${LOCK} \
 && find /opt/somatic/lib -type d -name tests -prune -exec rm -r {} + \
 && /opt/somatic/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/somatic/lib


FROM dependencies AS package
WORKDIR /src
COPY requirements-build.lock ./
RUN /build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements-build.lock
COPY . ./
RUN /build/bin/pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheel . \
 && /build/bin/pip --python /opt/somatic/bin/python install --disable-pip-version-check \
      --no-deps --no-compile --root /package /wheel/*.whl \
 && /opt/somatic/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /package /package/opt/somatic/lib


FROM base
COPY --from=dependencies /opt/somatic /opt/somatic
COPY --from=package /package/opt/somatic /opt/somatic
ENV PATH=/opt/somatic/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/home/somatic \
    PREFECT_HOME=/home/somatic/.prefect \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1
ARG COMMIT=""
# buildah takes ENV and LABEL from its cache although COMMIT has changed, but no RUN, nor what follows one.
RUN : "${COMMIT}"
ENV SOMATIC_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="somatic" \
      org.opencontainers.image.description="Somatic and nuclear features of every cell of an EM volume" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/somatic-features/somatic" \
      org.opencontainers.image.revision="${COMMIT}"
WORKDIR /work
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["somatic", "--help"]
