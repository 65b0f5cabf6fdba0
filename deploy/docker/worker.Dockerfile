# A worker: the agent in vLLM's official image. From the root of the repository:
#   docker build -f deploy/docker/worker.Dockerfile -t sluice/worker:0.1.0 .
# For other accelerators name an image whose vLLM is of the same version: --build-arg VLLM_IMAGE=…
ARG VLLM_IMAGE=docker.io/vllm/vllm-openai:v0.32.0

FROM ${VLLM_IMAGE}
USER root
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY workers workers
# Only what the image lacks is added. What it has stays as it is, since its engine was tested with that: its versions are
# constraints, and the extra `worker-gpu` fails here if its vLLM is not one that the agent knows.
RUN python3 -m pip list --format=freeze | grep -E '^[A-Za-z0-9._-]+==' >/tmp/present.txt \
 && python3 -m pip install --no-cache-dir --disable-pip-version-check --constraint /tmp/present.txt '.[worker-gpu]' \
 && rm -rf /src/* /tmp/present.txt \
 && sluice worker --help >/dev/null
RUN groupadd --gid 10001 sluice \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/sluice --create-home --shell /usr/sbin/nologin sluice \
 && install --directory --owner 10001 --group 10001 /models
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/sluice
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["sluice"]
CMD ["worker"]
