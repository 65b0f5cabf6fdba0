# The gateway, and every verb of `sluice`. From the root of the repository:
#   docker build -f deploy/docker/gateway.Dockerfile -t sluice/gateway:0.1.0 .
# Where packages come from is a matter of pip's own settings (PIP_INDEX_URL, or a pip.conf in the base image).
ARG PYTHON_IMAGE=docker.io/library/python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements/gateway.lock requirements/gateway.lock
RUN python -m venv /opt/sluice \
 && /opt/sluice/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/gateway.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY workers workers
RUN /opt/sluice/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps . \
 && /opt/sluice/bin/pip uninstall --yes pip setuptools \
 && /opt/sluice/bin/sluice --help >/dev/null

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 sluice \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/sluice --create-home --shell /usr/sbin/nologin sluice
COPY --from=build /opt/sluice /opt/sluice
ENV PATH=/opt/sluice/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SLUICE_HOME=/var/lib/sluice \
    SLUICE_HOST=0.0.0.0
WORKDIR /var/lib/sluice
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["sluice"]
CMD ["serve"]
